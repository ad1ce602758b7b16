# METADATA
# title: Calls that a human must approve
# description: >-
#   A call of a listed tool waits for a human. `tools` counts for every agent, `agents` for one. `above` lets small
#   amounts go: tool, argument and the greatest number that needs nobody. An amount that is missing, or is no plain
#   number, needs somebody.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-ASI02, OWASP-ASI09, MITRE-ATLAS-AML.T0053]
#   needs: [tools, agents]
package interlock.policies.interlock.approvals

import data.interlock.lib.names
import data.interlock.lib.values

settings := data.interlock.approvals

tool_call contains finding if {
	names.listed(input.call.name, listed)
	not small
	finding := {
		"id": "needs_approval",
		"severity": "high",
		"action": "approve",
		"message": "That tool needs the approval of a human. Wait for it, or go on with what needs none.",
		"tags": ["OWASP-LLM06:2025", "OWASP-ASI02", "OWASP-ASI09", "MITRE-ATLAS-AML.T0053"],
	}
}

listed := array.concat(settings.tools, own)

own := settings.agents[input.identity.agent] if {
	settings.agents[input.identity.agent]
} else := []

# Every amount that has a limit is there and within it.
small if {
	limits := settings.above[input.call.name]
	count(limits) > 0
	is_object(input.call.arguments)
	every argument, most in limits {
		within(input.call.arguments[argument], most)
		once(argument)
	}
}

# A tool may read any of `amount` and `Amount`.
once(argument) if {
	count([name | some name, _ in input.call.arguments; values.squashed(name) == values.squashed(argument)]) == 1
}

within(value, most) if {
	amount := values.number(value)
	amount >= 0
	amount <= most
}
