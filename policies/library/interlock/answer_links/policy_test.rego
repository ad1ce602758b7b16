package interlock.policies.interlock.answer_links_test

import data.interlock.policies.interlock.answer_links

given := {"hosts": ["example.com", "*.example.com"], "links": false}

of(settings, text) := {finding.id |
	some finding in answer_links.output with input as {"surface": {"text": text}} with data.interlock.answer_links as settings
}

ids(text) := of(given, text)

test_an_image_from_elsewhere_is_stopped if {
	every text in [
		"Look: ![x](https://evil.example/p.png?q=secret)", "![](http://evil.example/a", "![a b] (https://evil.example/)", "<img src=\"https://evil.example/x\">",
		"<IMG alt=1 SRC='//evil.example/x'>", "![x][1]\n\n[1]: https://evil.example/x", "![x]\n\n[x]: https://evil.example/x", "![x](//evil.example/a.png)",
		"<div style=\"background: url(https://evil.example/x)\">", "<video poster=https://evil.example/x>", "![x](https://example.com.evil.example/x)",
		"![x](https://example.com@evil.example/x)", "![x](<https://evil.example/x>)",
	] {
		ids(text) == {"foreign_image"}
	}
}

test_images_of_the_list_are_let_by if {
	every text in ["![x](https://example.com/p.png)", "<img src=\"https://cdn.example.com/x\">", "![x](/local.png)", "![x](data:image/png;base64,AAAA)"] {
		ids(text) == set()
	}
}

test_links_are_let_by_unless_they_are_to_be_stopped if {
	text := "See [the page](https://other.example/) or https://other.example/x."
	ids(text) == set()
	of(object.union(given, {"links": true}), text) == {"foreign_link"}
	of(object.union(given, {"links": true}), "See [the page](https://example.com/).") == set()
}

test_plain_text_is_let_by if {
	every text in ["", "Nothing here! [1]", "a // comment", "x![0]", "if (a) { url = 3 }"] {
		ids(text) == set()
	}
}

test_a_missing_text_is_let_by if {
	{finding.id | some finding in answer_links.output with input as {} with data.interlock.answer_links as given} == set()
}
