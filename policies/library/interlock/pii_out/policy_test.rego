package interlock.policies.interlock.pii_out_test

import data.interlock.policies.interlock.pii_out

signal(set, id, path) := {"set": set, "id": id, "severity": "high", "path": path, "count": 1, "start": 3, "end": 19}

card := signal("pii", "payment_card", "")

output(signals) := {finding.id | some finding in pii_out.output with input as {"signals": signals}}

reasoning(signals) := {finding.id | some finding in pii_out.reasoning with input as {"signals": signals}}

call(name, signals) := {finding.id |
	some finding in pii_out.tool_call with input as {"call": {"name": name}, "signals": signals}
		with data.interlock.pii_out as {"kinds": ["payment_card", "phone"], "tools": ["charge_*"]}
}

test_a_card_in_the_answer_is_found if output([card]) == {"personal_data_in_answer"}

test_a_card_in_the_reasoning_is_found if reasoning([card]) == {"personal_data_in_reasoning"}

test_other_signals_are_let_by if {
	every one in [signal("pii", "email", ""), signal("secrets", "payment_card", "")] {
		output([one]) == set()
		reasoning([one]) == set()
		call("x", [one]) == set()
	}
	output([]) == set()
}

test_a_missing_list_is_let_by if {
	{finding.id | some finding in pii_out.output with input as {}} == set()
	{finding.id | some finding in pii_out.tool_call with input as {"call": {"name": "x"}}} == set()
}

# Whatever type the argument had, its strings were looked at before: the path says where.
test_a_card_in_an_argument_of_any_type_is_stopped if {
	every path in ["/a", "/a/0", "/a/b/0/c", ""] {
		call("search", [signal("pii", "payment_card", path)]) == {"personal_data_in_arguments"}
	}
}

test_settings_say_what_counts_and_who_may if {
	call("search", [signal("pii", "phone", "/a")]) == {"personal_data_in_arguments"}
	call("search", [signal("pii", "iban", "/a")]) == set()
	call("charge_card", [card]) == set()
}
