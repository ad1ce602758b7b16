# METADATA
# title: Images and links in answers
# description: >-
#   A picture in an answer is fetched by whoever shows it, with what stands in its address: the shortest way out for
#   data. With a list of `hosts`, images (Markdown, HTML, CSS) of other hosts are stopped, and with `links` all other
#   URLs too. The whole answer waits for its end while this is enforced.
# custom:
#   severity: high
#   tags: [OWASP-LLM02:2025, OWASP-LLM05:2025, OWASP-ASI09, MITRE-ATLAS-AML.T0077]
#   hold: all
#   needs: [hosts]
package interlock.policies.interlock.answer_links

import data.interlock.lib.hosts

settings := data.interlock.answer_links

tags := ["OWASP-LLM02:2025", "OWASP-LLM05:2025", "OWASP-ASI09", "MITRE-ATLAS-AML.T0077"]

output contains finding if {
	some text in images
	foreign(text)
	finding := {
		"id": "foreign_image",
		"severity": "high",
		"action": "deny",
		"message": "It would show an image from another host. Describe the image, or name it without its address.",
		"tags": tags,
	}
}

output contains finding if {
	settings.links == true
	foreign(input.surface.text)
	finding := {
		"id": "foreign_link",
		"severity": "medium",
		"action": "deny",
		"message": "It links to a host that is not on the list. Name the source without its address.",
		"tags": tags,
	}
}

# What whoever shows the text would fetch: Markdown images, in line or by reference, and whatever HTML or CSS fetch.
images contains found[0] if {
	some pattern in [`!\[[^\]]*\]\s*\([^)]*\)?`, `(?is)<[a-z][^>]*\s(?:src|srcset|background|poster|data|href)\s*=[^>]*>?`, `(?i)url\s*\([^)]*\)?`]
	some found in regex.find_all_string_submatch_n(pattern, input.surface.text, -1)
	not regex.match(`(?i)^<a\s`, found[0])
}

images contains found[0] if {
	regex.match(`!\[[^\]]*\]\s*(?:\[|[^(\s]|$)`, input.surface.text)
	some found in regex.find_all_string_submatch_n(`(?m)^\s{0,3}\[[^\]]+\]:\s*\S+`, input.surface.text, -1)
}

foreign(text) if {
	some host in hosts.of_urls(text)
	not hosts.on_list(host.name, settings.hosts)
}

foreign(text) if {
	some found in regex.find_all_string_submatch_n(`[("'\s=<]//([^\s/\\?#"'<>()]+)`, text, -1)
	host := hosts.host(found[1])
	not hosts.on_list(host.name, settings.hosts)
}
