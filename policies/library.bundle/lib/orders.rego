# METADATA
# title: Passages that give orders
# description: >-
#   What policies about injected orders share: which passages of tool results count, and whether somebody who may give
#   orders asked for the call as well.
package interlock.lib.orders

# Passages count from this score on, in results of tools of these trust classes.
counts(order, settings) if {
	order.trust in settings.trust
	order.score >= settings.least_score
}

# A passage that speaks to the model, or sets aside what it was told, is nobody's everyday request.
blatant(order, settings) if {
	some kind in order.kinds
	kind in settings.blatant
}

# The user, or a plan from before the first passage, asked for what the call does. A user who hands over ("do what the
# ticket says") has asked for what an everyday request in a result wants, and not for what a blatant one does.
asked_for(_, _) if input.call.named.by_user

asked_for(_, _) if input.call.named.by_plan

asked_for(order, settings) if {
	input.call.named.delegated
	not blatant(order, settings)
}
