package interlock.policies.interlock.pii_mask_test

import data.interlock.policies.interlock.pii_mask

signal(set, id, path) := {"set": set, "id": id, "severity": "high", "path": path, "count": 1, "start": 3, "end": 19}

card := signal("pii", "payment_card", "")

output(signals) := {[finding.id, finding.redactions] |
	some finding in pii_mask.output with input as {"signals": signals}
}

call(name, signals) := {finding.redactions |
	some finding in pii_mask.tool_call with input as {"call": {"name": name}, "signals": signals}
		with data.interlock.pii_mask as {"kinds": ["payment_card", "phone"], "tools": ["charge_*"]}
}

test_a_card_in_the_answer_is_masked if {
	output([card]) == {["personal_data_in_answer", [{"path": "", "start": 3, "end": 19}]]}
}

test_a_card_in_the_reasoning_is_masked if {
	{finding.action | some finding in pii_mask.reasoning with input as {"signals": [card]}} == {"redact"}
}

test_two_numbers_are_masked_by_one_finding if {
	found := output([card, object.union(card, {"id": "iban", "start": 40, "end": 60})])
	count(found) == 1
	every one in found {
		count(one[1]) == 2
	}
}

test_other_signals_are_let_by if {
	every one in [signal("pii", "email", ""), signal("secrets", "payment_card", "")] {
		output([one]) == set()
		call("x", [one]) == set()
	}
	output([]) == set()
}

test_a_missing_list_is_let_by if {
	{finding.id | some finding in pii_mask.output with input as {}} == set()
	{finding.id | some finding in pii_mask.tool_call with input as {"call": {"name": "x"}}} == set()
}

# Whatever type the argument had, its strings were looked at before: the path says where.
test_a_card_in_an_argument_of_any_type_is_masked if {
	every path in ["/a", "/a/0", "/a/b/0/c"] {
		call("search", [signal("pii", "payment_card", path)]) == {[{"path": path, "start": 3, "end": 19}]}
	}
}

test_a_string_with_several_numbers_is_masked_whole if {
	call("search", [{"set": "pii", "id": "phone", "severity": "low", "path": "/a", "count": 2}]) == {[{"path": "/a"}]}
	nowhere := {"set": "pii", "id": "phone", "severity": "low", "path": "/a", "count": 2, "start": null, "end": null}
	call("search", [nowhere]) == {[{"path": "/a"}]}
}

test_settings_say_what_counts_and_who_may if {
	call("search", [signal("pii", "iban", "/a")]) == set()
	call("charge_card", [card]) == set()
}
