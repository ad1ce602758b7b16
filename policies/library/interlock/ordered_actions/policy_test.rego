package interlock.policies.interlock.ordered_actions_test

import data.interlock.policies.interlock.ordered_actions

order := {"message": 3, "tool": "read_mail", "trust": "untrusted", "start": 0, "end": 40, "kinds": ["order", "task"], "score": 0.8, "asked": false}

nobody := {"by_user": false, "by_system": false, "by_plan": false, "delegated": false, "by_orders": [{"order": 0, "sure": 0.9}]}

ids(order, named) := {finding.id |
	some finding in ordered_actions.tool_call with input as {
		"call": {"name": "unlock_door", "arguments": {}, "named": named},
		"request": {"orders": [order]},
	}
}

test_an_action_that_only_a_result_asks_for_is_stopped if ids(order, nobody) == {"not_asked_for"}

test_what_the_user_asks_for_is_let_by if {
	ids(order, object.union(nobody, {"by_user": true})) == set()
	ids(order, object.union(nobody, {"by_plan": true})) == set()
}

test_the_system_message_names_all_tools_and_asks_for_none if {
	ids(order, object.union(nobody, {"by_system": true})) == {"not_asked_for"}
}

test_an_order_for_something_else_stops_nothing if ids(order, object.union(nobody, {"by_orders": []})) == set()

test_what_was_handed_over_is_recorded if ids(order, object.union(nobody, {"delegated": true})) == {"handed_over"}

test_a_blatant_order_is_not_what_was_handed_over if {
	every kind in ["override", "concealment", "marker", "role"] {
		ids(object.union(order, {"kinds": ["order", kind]}), object.union(nobody, {"delegated": true})) == {"not_asked_for"}
	}
}

test_trusted_results_may_give_orders if {
	ids(object.union(order, {"trust": "trusted"}), nobody) == set()
	ids(object.union(order, {"trust": "internal"}), nobody) == {"not_asked_for"}
}

test_a_passage_that_is_hardly_an_order_for_this_call_does_not_count if {
	ids(order, object.union(nobody, {"by_orders": [{"order": 0, "sure": 0.4}]})) == set()
}

# What stands in the arguments makes no difference, whatever its type.
test_arguments_of_any_type_are_judged_alike if {
	every arguments in [{"x": "y"}, {"x": ["y"]}, {"x": {"y": "z"}}, {"x": 7}, {"x": null}, {}] {
		found := {finding.id |
			some finding in ordered_actions.tool_call with input as {
				"call": {"name": "unlock_door", "arguments": arguments, "named": nobody},
				"request": {"orders": [order]},
			}
		}
		found == {"not_asked_for"}
	}
}

test_without_facts_nothing_is_said if {
	every call in [{"name": "a", "arguments": {}}, {"name": "a", "arguments": {}, "named": null}] {
		ordered_actions.tool_call == set() with input as {"call": call, "request": {"orders": []}}
	}
}
