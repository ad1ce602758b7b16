# METADATA
# title: Personal data masked in answers and tool arguments
# description: >-
#   The same numbers that `interlock.pii_out` stops (cards, bank accounts, social security numbers, with their checksums)
#   are masked, and the answer goes on: in what the model says and thinks, and in the arguments of a call, unless `tools`
#   names it. `kinds` says which patterns of the set `pii` count in arguments. Set one of the two in force, not both: what
#   is denied is not masked. In force, texts wait for their last 160 bytes.
# custom:
#   severity: medium
#   tags: [OWASP-LLM02:2025, OWASP-ASI03, MITRE-ATLAS-AML.T0057]
#   hold: tail(160)
#   patterns: [pii/payment_card, pii/iban, pii/us_ssn]
package interlock.policies.interlock.pii_mask

import data.interlock.lib.names

settings := data.interlock.pii_mask

said := {"payment_card", "iban", "us_ssn"}

output contains masked("personal_data_in_answer", places) if {
	places := here(said)
	count(places) > 0
}

reasoning contains masked("personal_data_in_reasoning", places) if {
	places := here(said)
	count(places) > 0
}

tool_call contains masked("personal_data_in_arguments", places) if {
	places := here({kind | some kind in settings.kinds})
	count(places) > 0
	not names.listed(input.call.name, settings.tools)
}

here(kinds) := [place(signal) |
	some signal in input.signals
	signal.set == "pii"
	signal.id in kinds
]

# A string with several hits of a pattern has no place for them: all of it is masked.
place(signal) := {"path": signal.path, "start": signal.start, "end": signal.end} if is_number(signal.start)

place(signal) := {"path": signal.path} if not placed(signal)

placed(signal) if is_number(signal.start)

masked(id, places) := {
	"id": id,
	"severity": "medium",
	"action": "redact",
	"message": "A personal number (card, bank account or social security) was masked.",
	"tags": ["OWASP-LLM02:2025", "OWASP-ASI03", "MITRE-ATLAS-AML.T0057"],
	"redactions": places,
}
