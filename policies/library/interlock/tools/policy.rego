# METADATA
# title: Tools allowed per agent
# description: An agent that has a list of tools may call those and no others.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-ASI02, MITRE-ATLAS-AML.T0053]
package interlock.policies.interlock.tools

tool_call contains finding if {
	allowed := data.interlock.tools.agents[input.identity.agent]
	not input.call.name in allowed
	finding := {
		"id": "tool_not_allowed",
		"severity": "high",
		"action": "deny",
		"message": "This agent may not use that tool. Use one of the tools that it was given for this task.",
		"tags": ["OWASP-LLM06:2025", "OWASP-ASI02", "MITRE-ATLAS-AML.T0053"],
	}
}
