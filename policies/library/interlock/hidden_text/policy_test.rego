package interlock.policies.interlock.hidden_text_test

import data.interlock.policies.interlock.hidden_text

output(signals) := {finding.id | some finding in hidden_text.output with input as {"signals": signals}}

call(signals) := {finding.id | some finding in hidden_text.tool_call with input as {"signals": signals}}

signal(set, path) := {"set": set, "id": "tags_block", "severity": "critical", "path": path, "count": 1}

test_hidden_text_is_found if {
	output([signal("hidden_unicode", "")]) == {"hidden_in_answer"}
	call([signal("hidden_unicode", "/to")]) == {"hidden_in_arguments"}
}

# Whatever type the argument had, its strings were looked at before: the path says where.
test_the_place_does_not_matter if {
	every path in ["/a", "/a/0", "/a/b/0/c", ""] {
		call([signal("hidden_unicode", path)]) == {"hidden_in_arguments"}
	}
}

test_other_signals_are_let_by if {
	output([signal("pii", "")]) == set()
	call([]) == set()
}

test_a_missing_list_is_let_by if {
	{finding.id | some finding in hidden_text.output with input as {}} == set()
	{finding.id | some finding in hidden_text.tool_call with input as {}} == set()
}
