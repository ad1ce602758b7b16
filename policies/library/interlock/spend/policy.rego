# METADATA
# title: What a run may spend
# description: >-
#   Ends a run that costs too much, before its next request goes to the model. `limits` and, laid over them,
#   `agents.<name>` give the most that a run may have used: `cost_usd`, `tokens`, `step` (requests), `tool_calls`,
#   `seconds`. `budget_share` (0 to 1) flags when that share of any budget is used up. Budgets themselves are enforced
#   by `breakers`, to the token; this is for rules about single runs that are tried in shadow first.
# custom:
#   severity: medium
#   tags: [OWASP-LLM10:2025, OWASP-ASI08, MITRE-ATLAS-AML.T0034, MITRE-ATLAS-AML.T0029]
#   needs: [limits, agents, budget_share]
package interlock.policies.interlock.spend

settings := data.interlock.spend

tags := ["OWASP-LLM10:2025", "OWASP-ASI08", "MITRE-ATLAS-AML.T0034", "MITRE-ATLAS-AML.T0029"]

request contains finding if {
	some unit, most in limits
	is_number(most)
	used[unit] >= most
	finding := {
		"id": "run_spent",
		"severity": "medium",
		"action": "deny",
		"message": "This run has used up what it may spend. Say what was done so far, and ask the user before going on.",
		"tags": tags,
	}
}

request contains finding if {
	settings.budget_share > 0
	some budget in input.budgets
	budget.limit > 0
	budget.used >= settings.budget_share * budget.limit
	finding := {
		"id": "budget_nearly_spent",
		"severity": "low",
		"action": "flag",
		"message": "A budget is nearly used up.",
		"tags": tags,
	}
}

used := {
	"cost_usd": input.run.cost_usd,
	"tokens": input.run.tokens,
	"step": input.run.step,
	"tool_calls": input.run.tool_calls,
	"seconds": input.run.seconds,
}

limits := object.union(settings.limits, own)

own := settings.agents[input.identity.agent] if {
	settings.agents[input.identity.agent]
} else := {}
