package interlock.policies.interlock.injected_results_test

import data.interlock.policies.interlock.injected_results

order(kinds, score, trust) := {"message": 3, "tool": "read_page", "trust": trust, "start": 0, "end": 40, "kinds": kinds, "score": score, "asked": false}

findings(orders) := {finding |
	some finding in injected_results.request with input as {"request": {
		"messages": [{"role": "tool", "text": "…"}],
		"message_count": 4,
		"orders": orders,
	}}
}

ids(orders) := {finding.id | some finding in findings(orders)}

test_a_result_that_speaks_to_the_model_is_withheld if {
	found := findings([order(["order", "override"], 0.95, "untrusted")])
	{[finding.id, finding.action, finding.redactions] | some finding in found} == {["speaks_to_the_model", "quarantine", [{"path": "/messages/0"}]]}
}

test_every_result_that_does_is_withheld if {
	other := object.union(order(["marker"], 0.9, "untrusted"), {"message": 4})
	paths := {redaction.path |
		some finding in injected_results.request with input as {"request": {
			"messages": [{"role": "tool", "text": "a"}, {"role": "tool", "text": "b"}],
			"message_count": 5,
			"orders": [order(["role"], 0.9, "untrusted"), other],
		}}
		some redaction in finding.redactions
	}
	paths == {"/messages/0", "/messages/1"}
}

test_an_order_that_a_person_might_read_is_recorded if ids([order(["order"], 0.9, "untrusted")]) == {"gives_orders"}

test_a_doubtful_one_is_recorded_or_let_by if {
	ids([order(["override"], 0.6, "untrusted")]) == {"gives_orders"}
	ids([order(["override"], 0.4, "untrusted")]) == set()
}

test_a_trusted_tool_may_give_orders if ids([order(["override"], 0.95, "trusted")]) == set()

test_data_is_let_by if ids([]) == set()
