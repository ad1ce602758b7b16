package interlock.policies.interlock.tainted_recipients_test

import data.interlock.policies.interlock.tainted_recipients

order := {"message": 3, "tool": "read_page", "trust": "untrusted", "start": 0, "end": 40, "kinds": ["order", "task"], "score": 0.8, "asked": false}

named := {"by_user": true, "by_system": false, "by_plan": false, "delegated": false, "by_orders": []}

in_order := {"source": "tool", "tool": "read_page", "message": 3, "trust": "untrusted", "relation": "part", "orders": true, "order": 0}

in_data := {"source": "tool", "tool": "read_page", "message": 3, "trust": "untrusted", "relation": "whole", "orders": false, "order": null}

value := {"path": "/to", "start": null, "end": null, "origins": [in_order], "sink": "recipient", "by_user": false, "by_plan": false}

ids(values, named, order) := {finding.id |
	some finding in tainted_recipients.tool_call with input as {
		"call": {"name": "send_mail", "arguments": {}, "provenance": values, "unplaced": [], "named": named},
		"request": {"orders": [order]},
	}
}

of(change) := ids([object.union(value, change)], named, order)

test_a_recipient_from_an_order_is_stopped if of({}) == {"sink_from_result"}

test_every_kind_of_sink_counts if {
	every sink in ["recipient", "url", "path", "command"] {
		of({"sink": sink}) == {"sink_from_result"}
	}
}

test_what_the_user_or_a_plan_named_is_let_by if {
	of({"by_user": true}) == set()
	of({"by_plan": true}) == set()
}

test_a_value_that_a_result_merely_holds_is_let_by if {
	of({"origins": [in_data]}) == set()
	of({"origins": []}) == set()
}

test_other_arguments_may_come_from_results if of({"sink": null}) == set()

for_this_call := object.union(named, {"by_user": false, "by_orders": [{"order": 0, "sure": 0.9}]})

test_a_value_that_an_order_for_this_very_call_gives_is_stopped if {
	ids([object.union(value, {"sink": null})], for_this_call, order) == {"value_from_result"}
	ids([object.union(value, {"sink": null})], object.union(for_this_call, {"by_user": true}), order) == set()
}

test_a_doubtful_passage_counts_if_the_call_shows_what_it_is if {
	doubtful := object.union(order, {"score": 0.1})
	unsure := object.union(for_this_call, {"by_orders": [{"order": 0, "sure": 0.3}]})
	ids([value], for_this_call, doubtful) == {"sink_from_result", "value_from_result"}
	ids([value], unsure, doubtful) == set()
}

# "Pay the bill in bill.txt": the user's own source says how what the user asked for is done.
test_what_the_users_own_source_says_is_let_by if {
	asked := object.union(order, {"asked": true})
	ids([value], named, asked) == set()
	ids([value], object.union(named, {"by_user": false}), asked) == {"sink_from_result"}
	ids([value], named, object.union(asked, {"kinds": ["order", "override"]})) == {"sink_from_result"}
	ids([value], named, object.union(asked, {"kinds": ["order", "exfiltration"]})) == {"sink_from_result"}
}

# The sender of a letter stands in its head too. The user asked for an answer to it: that is let by.
test_a_recipient_that_stands_in_data_too_needs_somebody_who_asked if {
	origins := {"origins": [in_order, in_data]}
	of(origins) == set()
	ids([object.union(value, origins)], object.union(named, {"by_user": false}), order) == {"sink_from_result"}
	ids([object.union(value, origins)], named, object.union(order, {"kinds": ["override"]})) == {"sink_from_result"}
}

test_what_was_handed_over_is_let_by_unless_it_is_blatant if {
	handed := object.union(named, {"by_user": false, "delegated": true})
	ids([value], handed, order) == set()
	ids([value], handed, object.union(order, {"kinds": ["concealment"]})) == {"sink_from_result"}
}

test_trusted_results_may_name_recipients if ids([value], named, object.union(order, {"trust": "trusted"})) == set()

untraced(by_orders, reason) := {finding.id |
	some finding in tainted_recipients.tool_call with input as {
		"call": {"provenance": [], "unplaced": [{"path": "/to/9", "reason": reason}], "named": object.union(named, {"by_orders": by_orders})},
		"request": {"orders": [order]},
	}
}

test_values_that_cannot_be_traced_do_not_hide if {
	untraced([{"order": 0, "sure": 0.9}], "many_values") == {"too_many_values"}
	untraced([], "many_values") == set()
	untraced([{"order": 0, "sure": 0.9}], "short") == set()
}

test_without_facts_nothing_is_said if {
	every call in [{"name": "a"}, {"name": "a", "provenance": null, "unplaced": [], "named": null}] {
		tainted_recipients.tool_call == set() with input as {"call": call, "request": {"orders": []}}
	}
}
