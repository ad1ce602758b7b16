# METADATA
# title: Secrets in tool arguments
# description: >-
#   A key or password in a tool call leaves the model for wherever the tool sends it. The pattern set `secrets`
#   finds them; this policy only says what follows.
# custom:
#   severity: critical
#   tags: [OWASP-LLM02:2025, OWASP-ASI03, MITRE-ATLAS-AML.T0057]
package interlock.policies.interlock.secrets

tool_call contains finding if {
	some signal in input.signals
	signal.set == "secrets"
	finding := {
		"id": "secret_in_arguments",
		"severity": "critical",
		"action": "deny",
		"message": concat(" ", [
			"Its arguments contain a secret (a key, token or password).",
			"Refer to the secret by the name of an environment variable or a secret store instead.",
		]),
		"tags": ["OWASP-LLM02:2025", "OWASP-ASI03", "MITRE-ATLAS-AML.T0057"],
	}
}
