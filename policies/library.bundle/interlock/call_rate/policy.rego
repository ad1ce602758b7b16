# METADATA
# title: Many calls that cannot be taken back
# description: >-
#   One deletion is work, twenty in a row are a mistake or an attack. `most` is how many of the run's latest 16 calls may
#   be of the tools in `tools`; the next one is stopped. What the run did before these 16 calls is not counted.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-LLM10:2025, OWASP-ASI02, OWASP-ASI08, MITRE-ATLAS-AML.T0101]
#   needs: [most]
package interlock.policies.interlock.call_rate

import data.interlock.lib.names

settings := data.interlock.call_rate

tool_call contains finding if {
	settings.most > 0
	names.listed(input.call.name, settings.tools)
	count([1 | some call in input.run.recent_calls; names.listed(call.name, settings.tools)]) >= settings.most
	finding := {
		"id": "too_many_at_once",
		"severity": "high",
		"action": "deny",
		"message": "This run has made many calls of that kind. Tell the user what was done and what is left, and ask before you go on.",
		"tags": ["OWASP-LLM06:2025", "OWASP-LLM10:2025", "OWASP-ASI02", "OWASP-ASI08", "MITRE-ATLAS-AML.T0101"],
	}
}
