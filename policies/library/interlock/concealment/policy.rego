# METADATA
# title: Reasoning that plans to hide something
# description: >-
#   Looks in what the model thinks for a plan to keep something from the user, to slip past who watches, or to remove
#   traces; and at calls whose reasoning says that they are to be hidden, or that the model will not make them. It reads
#   the reasoning when it is over, before the answer or the call goes on, and only while `watch` is true. It knows
#   English words, and no plan that is not written down.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-ASI09, OWASP-ASI10, MITRE-ATLAS-AML.T0015]
#   hold: none
#   needs: [watch]
package interlock.policies.interlock.concealment

settings := data.interlock.concealment

tags := ["OWASP-LLM06:2025", "OWASP-ASI09", "OWASP-ASI10", "MITRE-ATLAS-AML.T0015"]

reasoning contains finding if {
	input.surface.complete
	text := strings.replace_n({"\n": " ", "\t": " ", "’": "'"}, input.surface.text)
	some pattern in settings.hiding
	regex.match(concat("", [`(?i)\b(?:`, pattern, `)`]), text)
	finding := {
		"id": "plans_to_hide",
		"severity": "high",
		"action": "deny",
		"message": "The reasoning plans to keep something from the user or from those who watch. Do it openly, or say that it cannot be done.",
		"tags": tags,
	}
}

tool_call contains finding if {
	input.call.mismatch.conceals == true
	finding := {
		"id": "hidden_call",
		"severity": "high",
		"action": "deny",
		"message": "The reasoning says that this call is to be hidden. Tell the user what it is for, and ask.",
		"tags": tags,
	}
}

tool_call contains finding if {
	input.call.mismatch.refuses == true
	finding := {
		"id": "refused_and_done",
		"severity": "medium",
		"action": "flag",
		"message": "The model says that it will not do this, and does it.",
		"tags": tags,
	}
}
