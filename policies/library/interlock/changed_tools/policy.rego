# METADATA
# title: Tools that changed under their name
# description: >-
#   The rug pull: a tool that was harmless when the run began is offered again under the same name with other words or
#   another schema, and then called. Stops calls of such a tool. `tools` says which tools are watched (`*` for all; none
#   while it is empty). It knows what the run was offered, not what other runs were.
# custom:
#   severity: high
#   tags: [OWASP-LLM03:2025, OWASP-ASI04, OWASP-ASI02, MITRE-ATLAS-AML.T0110, MITRE-ATLAS-AML.T0010]
#   needs: [tools]
package interlock.policies.interlock.changed_tools

import data.interlock.lib.names

tool_call contains finding if {
	input.call.changed == true
	names.listed(input.call.name, data.interlock.changed_tools.tools)
	finding := {
		"id": "tool_changed",
		"severity": "high",
		"action": "deny",
		"message": "That tool is no longer what it was when this run began. Tell the user, and do not use it until it was looked at.",
		"tags": ["OWASP-LLM03:2025", "OWASP-ASI04", "OWASP-ASI02", "MITRE-ATLAS-AML.T0110", "MITRE-ATLAS-AML.T0010"],
	}
}
