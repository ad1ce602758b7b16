# METADATA
# title: Tools allowed per agent and team
# description: >-
#   Least privilege: an agent that has a list of tools may call those and no others. Its own list counts before its
#   team's, and that before the one for everyone; `never` holds for all. Names may have `*` in them. Without any list
#   there is nothing to say.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-ASI02, OWASP-ASI03, MITRE-ATLAS-AML.T0053]
#   needs: [agents, teams, everyone, never]
package interlock.policies.interlock.tools

import data.interlock.lib.names

settings := data.interlock.tools

tool_call contains finding if {
	list := allowed
	not names.listed(input.call.name, list)
	finding := {
		"id": "tool_not_allowed",
		"severity": "high",
		"action": "deny",
		"message": "This agent may not use that tool. Use one of the tools that it was given for this task.",
		"tags": tags,
	}
}

tool_call contains finding if {
	names.listed(input.call.name, settings.never)
	finding := {
		"id": "tool_forbidden",
		"severity": "high",
		"action": "deny",
		"message": "No agent may use that tool. Ask the user to do this step.",
		"tags": tags,
	}
}

tags := ["OWASP-LLM06:2025", "OWASP-ASI02", "OWASP-ASI03", "MITRE-ATLAS-AML.T0053"]

# The list that counts for who asks: undefined if there is none.
allowed := settings.agents[input.identity.agent] if {
	settings.agents[input.identity.agent]
} else := settings.teams[input.identity.team] if {
	settings.teams[input.identity.team]
} else := settings.everyone if {
	count(settings.everyone) > 0
}
