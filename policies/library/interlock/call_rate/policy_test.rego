package interlock.policies.interlock.call_rate_test

import data.interlock.policies.interlock.call_rate

of(most, name, arguments, before) := {finding.id |
	some finding in call_rate.tool_call with input as {
		"call": {"name": name, "arguments": arguments},
		"run": {"recent_calls": [{"name": one} | some one in before]},
	}
		with data.interlock.call_rate.most as most
}

test_a_few_are_let_by if of(3, "delete_file", {}, ["delete_file", "ls", "remove_user"]) == set()

test_many_are_stopped if of(3, "delete_file", {}, ["delete_file", "remove_user", "ls", "Send_Mail"]) == {"too_many_at_once"}

test_other_calls_go_on if of(3, "read_file", {}, ["delete_file", "delete_file", "delete_file"]) == set()

test_without_a_number_nothing_is_stopped if of(0, "delete_file", {}, ["delete_file", "delete_file"]) == set()

test_the_type_of_the_arguments_does_not_matter if {
	every arguments in ["x", ["x"], {"a": 1}, 7, null, {"a": {"b": ["c"]}}] {
		of(1, "delete_file", arguments, ["delete_file"]) == {"too_many_at_once"}
	}
}

test_a_run_without_calls_is_let_by if of(1, "delete_file", {}, []) == set()
