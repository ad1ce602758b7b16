# METADATA
# title: Passages that give orders
# description: >-
#   What policies about injected orders share: which passages of tool results count, and whether somebody who may give
#   orders asked for the call as well.
package interlock.lib.orders

# Indices of the passages that count, in results of tools of these trust classes: those that are sure to give orders, and
# those that the call shows to be an order for it.
counting(settings) := {index |
	some index, order in input.request.orders
	order.trust in settings.trust
	order.score >= settings.least_score
} | named(settings)

# Those of them that ask for this call.
named(settings) := {ordered.order |
	some ordered in input.call.named.by_orders
	ordered.sure >= settings.least_sure
	input.request.orders[ordered.order].trust in settings.trust
}

# A passage that speaks to the model, or sets aside what it was told, is nobody's everyday request.
blatant(order, settings) if {
	some kind in order.kinds
	kind in settings.blatant
}

# The user hands a task over to what a tool returns ("do what the ticket says"), and this asks for it as people do.
handed_over(order, settings) if {
	input.call.named.delegated
	not blatant(order, settings)
}

# The user asked for what the call does, and it is the user's own source that says how: the bill that is to be paid.
filled_in(order, settings) if {
	input.call.named.by_user
	order.asked
	not blatant(order, settings)
	not "exfiltration" in order.kinds
}

# The user, or a plan from before the first passage, asked for what the call does, or handed it over.
asked_for(_, _) if input.call.named.by_user

asked_for(_, _) if input.call.named.by_plan

asked_for(order, settings) if handed_over(order, settings)
