# METADATA
# title: Orders in what tools return
# description: >-
#   Withholds a tool's new result that holds a passage which speaks to the model or takes earlier orders back, and records
#   one that holds any other passage that gives orders. It judges the result when it comes, before the model reads it; who
#   is to be stopped only where a call follows such a passage uses `ordered_actions`. It reads only while `watch` is true:
#   a colleague's request in a mail may read the same as an injection, so it is for tools that bring what strangers wrote.
# custom:
#   severity: high
#   tags: [OWASP-LLM01:2025, OWASP-ASI01, MITRE-ATLAS-AML.T0051.001]
#   needs: [watch]
package interlock.policies.interlock.injected_results

settings := data.interlock.injected_results

tags := ["OWASP-LLM01:2025", "OWASP-ASI01", "MITRE-ATLAS-AML.T0051.001"]

sure contains order if {
	some order in input.request.orders
	order.trust in settings.trust
	order.score >= settings.least_score
}

withheld contains order if {
	some order in sure
	order.score >= settings.least_withheld
	some kind in order.kinds
	kind in settings.blatant
}

# A passage names its message by its place in the whole request, a redaction by its place among those that are new.
before := input.request.message_count - count(input.request.messages)

request contains finding if {
	some order in withheld
	finding := {
		"id": "speaks_to_the_model",
		"severity": "high",
		"action": "quarantine",
		"message": "A tool's result gave orders to the model.",
		"tags": tags,
		"redactions": [{"path": concat("", ["/messages/", format_int(order.message - before, 10)])}],
	}
}

request contains finding if {
	count(sure) > 0
	count(withheld) == 0
	finding := {
		"id": "gives_orders",
		"severity": "medium",
		"action": "flag",
		"message": "A tool's result holds a passage that gives orders.",
		"tags": tags,
	}
}
