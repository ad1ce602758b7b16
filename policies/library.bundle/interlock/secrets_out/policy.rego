# METADATA
# title: Secrets in what the model says
# description: >-
#   A key or password that the model writes into its answer, or into its reasoning, goes to whoever reads the
#   conversation and into every log of it. The pattern set `secrets` finds them while the text is written; this policy
#   only says what follows. It holds nothing back: set in force, it ends the answer where the secret was seen. A copy
#   with another `hold` keeps all of it from leaving.
# custom:
#   severity: high
#   tags: [OWASP-LLM02:2025, OWASP-ASI03, MITRE-ATLAS-AML.T0057]
#   hold: none
#   patterns: [secrets]
package interlock.policies.interlock.secrets_out

output contains found("secret_in_answer") if a_secret

reasoning contains found("secret_in_reasoning") if a_secret

a_secret if {
	some signal in input.signals
	signal.set == "secrets"
}

found(id) := {
	"id": id,
	"severity": "high",
	"action": "deny",
	"message": "It contained a secret (a key, token or password). Name the secret instead of writing it out.",
	"tags": ["OWASP-LLM02:2025", "OWASP-ASI03", "MITRE-ATLAS-AML.T0057"],
}
