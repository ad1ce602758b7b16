# METADATA
# title: Arguments that do not fit the tool's schema
# description: >-
#   Stops a call whose arguments are not what the request says that the tool takes: of another type, beyond the values or
#   bounds that the JSON schema lists, without a required one, or with one that the schema forbids. `kinds` says which of
#   these count (`unlisted` too: arguments of which the schema says nothing), `tools` which tools are looked at (`*` for
#   all; none while it is empty). The schemas wait in memory for the answer's end while this is in force.
# custom:
#   severity: medium
#   tags: [OWASP-LLM05:2025, OWASP-LLM06:2025, OWASP-ASI02, MITRE-ATLAS-AML.T0053]
#   needs: [tools]
package interlock.policies.interlock.argument_schema

import data.interlock.lib.names

settings := data.interlock.argument_schema

tool_call contains finding if {
	names.listed(input.call.name, settings.tools)
	some fault in input.call.faults
	fault.kind in settings.kinds
	finding := {
		"id": concat("_", ["argument", fault.kind]),
		"severity": "medium",
		"action": "deny",
		"message": "Its arguments do not fit the tool's schema. Read the tool's parameters again and give what they ask for.",
		"tags": ["OWASP-LLM05:2025", "OWASP-LLM06:2025", "OWASP-ASI02", "MITRE-ATLAS-AML.T0053"],
	}
}
