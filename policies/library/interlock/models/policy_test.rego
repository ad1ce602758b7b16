package interlock.policies.interlock.models_test

import data.interlock.policies.interlock.models

given := {
	"models": ["small-*", "tiny"],
	"agents": {"research": {"models": ["large"], "limits": {"max_tokens": 9000}}},
	"limits": {"temperature": 1, "n": 2, "max_tokens": 1000},
	"tool_choice": ["auto", "none"],
}

plain := {"model": "tiny", "n": 1, "tool_choice": "auto", "sampling": {"max_tokens": 100}}

ids(agent, changes) := {finding.id |
	some finding in models.request with input as {"identity": {"agent": agent}, "request": object.union(plain, changes)}
		with data.interlock.models as given
}

test_a_model_of_the_list_is_let_by if {
	ids("a", {}) == set()
	ids("a", {"model": "small-7b"}) == set()
	ids("research", {"model": "large"}) == set()
}

test_another_model_is_stopped if {
	every model in ["large", "", "smal", null] {
		ids("a", {"model": model}) == {"model_not_allowed"}
	}
	ids("research", {"model": "tiny"}) == {"model_not_allowed"}
}

test_what_goes_over_a_limit_is_stopped if {
	ids("a", {"n": 3}) == {"over_limit"}
	ids("a", {"sampling": {"temperature": 1.5}}) == {"over_limit"}
	ids("a", {"sampling": {"max_tokens": 1001}}) == {"over_limit"}
	ids("a", {"sampling": {"max_tokens": 1000, "temperature": 1}}) == set()
}

test_a_value_that_is_no_number_is_over_the_limit if {
	every value in ["2", [0.1], {"a": 1}, "x"] {
		ids("a", {"sampling": {"temperature": value}}) == {"over_limit"}
	}
}

test_a_length_must_be_asked_for if {
	without := object.remove(plain, ["sampling"])
	found := models.request with input as {"identity": {"agent": "a"}, "request": without} with data.interlock.models as given
	{finding.id | some finding in found} == {"over_limit"}
}

test_an_agent_may_have_other_limits if {
	ids("research", {"model": "large", "sampling": {"max_tokens": 8000}}) == set()
	ids("research", {"model": "large", "sampling": {"max_tokens": 9001}}) == {"over_limit"}
}

test_a_tool_choice_that_is_not_allowed_is_stopped if {
	every choice in ["required", {"type": "function", "function": {"name": "x"}}, 7, ["auto"]] {
		ids("a", {"tool_choice": choice}) == {"tool_choice_not_allowed"}
	}
	ids("a", {"tool_choice": null}) == set()
}

test_without_settings_everything_is_let_by if {
	found := models.request with input as {"identity": {"agent": "a"}, "request": {"model": "x", "n": 128}}
		with data.interlock.models as {"models": [], "agents": {}, "limits": {}, "tool_choice": []}
	found == set()
}
