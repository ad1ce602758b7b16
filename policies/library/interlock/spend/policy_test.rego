package interlock.policies.interlock.spend_test

import data.interlock.policies.interlock.spend

given := {"limits": {"cost_usd": 2, "step": 40}, "agents": {"nightly": {"step": 500}}, "budget_share": 0.8}

nothing := {"cost_usd": 0, "tokens": 0, "step": 0, "tool_calls": 0, "seconds": 0}

of(agent, run, budgets, settings) := {finding.id |
	some finding in spend.request with input as {
		"identity": {"agent": agent},
		"run": object.union(nothing, run),
		"budgets": budgets,
	}
		with data.interlock.spend as settings
}

ids(agent, run) := of(agent, run, [], given)

test_a_run_within_its_limits_goes_on if {
	ids("a", {}) == set()
	ids("a", {"cost_usd": 1.99, "step": 39, "tokens": 10000000}) == set()
}

test_a_run_over_a_limit_ends if {
	ids("a", {"cost_usd": 2}) == {"run_spent"}
	ids("a", {"step": 40}) == {"run_spent"}
}

test_an_agent_may_have_other_limits if {
	ids("nightly", {"step": 400}) == set()
	ids("nightly", {"step": 500}) == {"run_spent"}
	ids("nightly", {"cost_usd": 3}) == {"run_spent"}
}

test_every_unit_can_be_limited if {
	every unit in ["cost_usd", "tokens", "step", "tool_calls", "seconds"] {
		of("a", {unit: 5}, [], {"limits": {unit: 5}, "agents": {}, "budget_share": 0}) == {"run_spent"}
		of("a", {unit: 4}, [], {"limits": {unit: 5}, "agents": {}, "budget_share": 0}) == set()
	}
}

test_a_budget_that_is_nearly_spent_is_flagged if {
	of("a", {}, [{"scope": "agent", "unit": "usd", "limit": 10, "used": 8}], given) == {"budget_nearly_spent"}
	of("a", {}, [{"scope": "agent", "unit": "usd", "limit": 10, "used": 7}], given) == set()
	of("a", {}, [{"scope": "agent", "unit": "usd", "limit": 0, "used": 0}], given) == set()
}

test_without_settings_nothing_is_said if {
	of("a", {"cost_usd": 1000}, [{"limit": 1, "used": 5}], {"limits": {}, "agents": {}, "budget_share": 0}) == set()
}

test_a_limit_that_is_no_number_is_none if of("a", {"step": 9}, [], {"limits": {"step": "5"}, "agents": {}, "budget_share": 0}) == set()
