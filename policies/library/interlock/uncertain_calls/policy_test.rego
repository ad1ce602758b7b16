package interlock.policies.interlock.uncertain_calls_test

import data.interlock.policies.interlock.uncertain_calls

given := object.union(data.interlock.uncertain_calls, {"least": 0.4})

sure := {"min": 0.9, "mean": 0.95, "tokens": 3}

guess := {"min": 0.2, "mean": 0.6, "tokens": 3}

of(settings, name, logprobs) := {finding.id |
	some finding in uncertain_calls.tool_call with input as {"call": {"name": name, "logprobs": logprobs}}
		with data.interlock.uncertain_calls as settings
}

logprobs(name, argument) := {"answer": sure, "name": name, "arguments": [object.union(argument, {"path": "/path"})]}

test_a_guessed_argument_is_stopped if of(given, "delete_file", logprobs(sure, guess)) == {"unsure_of_argument"}

test_a_guessed_tool_is_stopped if of(given, "delete_file", logprobs(guess, sure)) == {"unsure_of_tool"}

test_a_sure_call_is_let_by if of(given, "delete_file", logprobs(sure, sure)) == set()

test_tools_that_change_nothing_may_guess if of(given, "search", logprobs(guess, guess)) == set()

test_what_is_not_known_is_not_judged if {
	of(given, "delete_file", null) == set()
	of(given, "delete_file", logprobs(null, {"unaligned": "found twice"})) == set()
	of(given, "delete_file", {"answer": guess, "name": null, "arguments": [], "unaligned": "no"}) == set()
}

test_only_the_arguments_that_are_named_count if {
	settings := object.union(given, {"arguments": ["path"]})
	of(settings, "delete_file", logprobs(sure, guess)) == {"unsure_of_argument"}
	of(object.union(given, {"arguments": ["other"]}), "delete_file", logprobs(sure, guess)) == set()
}

test_values_of_any_type_are_judged_alike if {
	every arguments in ["x", ["x"], {"a": 1}, 7, null, {"a": {"b": ["c"]}}] {
		found := {finding.id |
			some finding in uncertain_calls.tool_call with input as {"call": {"name": "delete_file", "arguments": arguments, "logprobs": logprobs(sure, guess)}}
				with data.interlock.uncertain_calls as given
		}
		found == {"unsure_of_argument"}
	}
}

test_without_a_threshold_nothing_is_stopped if of(object.union(given, {"least": 0}), "delete_file", logprobs(guess, guess)) == set()
