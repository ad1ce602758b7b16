# METADATA
# title: Personal data in answers and tool arguments
# description: >-
#   Card numbers, bank accounts and social security numbers (with their checksums) that the model says, thinks or hands
#   to a tool. In arguments `kinds` says which patterns of the set `pii` count, and `tools` which tools may have them. It
#   holds no text back: set in force, it ends the answer where the number was seen; a copy with `hold: tail(40)` lets no
#   digit leave.
# custom:
#   severity: high
#   tags: [OWASP-LLM02:2025, OWASP-ASI03, MITRE-ATLAS-AML.T0057]
#   hold: none
#   patterns: [pii/payment_card, pii/iban, pii/us_ssn]
package interlock.policies.interlock.pii_out

import data.interlock.lib.names

settings := data.interlock.pii_out

tags := ["OWASP-LLM02:2025", "OWASP-ASI03", "MITRE-ATLAS-AML.T0057"]

said := {"payment_card", "iban", "us_ssn"}

output contains found("personal_data_in_answer") if personal

reasoning contains found("personal_data_in_reasoning") if personal

personal if {
	some signal in input.signals
	signal.set == "pii"
	signal.id in said
}

found(id) := {
	"id": id,
	"severity": "high",
	"action": "deny",
	"message": "It contained a personal number (card, bank account or social security). Show the last digits only.",
	"tags": tags,
}

tool_call contains finding if {
	some signal in input.signals
	signal.set == "pii"
	signal.id in settings.kinds
	not names.listed(input.call.name, settings.tools)
	finding := {
		"id": "personal_data_in_arguments",
		"severity": "high",
		"action": "deny",
		"message": "Its arguments contain personal data. Refer to the record by its id instead of writing the data out.",
		"tags": tags,
	}
}
