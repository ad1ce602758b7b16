package interlock.policies.interlock.prompt_leak_test

import data.interlock.policies.interlock.prompt_leak

output(signals) := {finding.id | some finding in prompt_leak.output with input as {"signals": signals}}

signal(set, id) := {"set": set, "id": id, "severity": "medium", "path": "", "count": 1, "start": 0, "end": 9}

test_a_prompt_that_is_told_is_found if {
	every id in ["tells_prompt", "begins_like_a_prompt", "canary"] {
		output([signal("prompt_leak", id)]) == {"tells_prompt"}
	}
}

test_a_question_about_it_is_let_by if output([signal("prompt_leak", "asks_for_prompt")]) == set()

test_other_signals_are_let_by if {
	output([signal("secrets", "canary")]) == set()
	output([]) == set()
}

test_a_missing_list_is_let_by if {
	{finding.id | some finding in prompt_leak.output with input as {}} == set()
}
