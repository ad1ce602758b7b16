"""A policy that reads how sure the model was of an argument, for tests of logprob facts and of asking for them."""

RULE = """\
package interlock.policies.acme.unsure

tool_call contains {
	"id": "city",
	"severity": "high",
	"action": "deny",
	"message": "Ask which city.",
	"tags": [],
} if {
	some argument in input.call.logprobs.arguments
	argument.path == "/city"
	argument.min < %s
}
"""
"""``%s`` is the probability below which the call is denied."""
