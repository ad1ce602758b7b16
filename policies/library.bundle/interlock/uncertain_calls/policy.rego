# METADATA
# title: Calls that the model is not sure of
# description: >-
#   Stops a call that changes something while the model itself was unsure: a token of the tool's name, or of an
#   argument's value, was less probable than `least` (0 to 1; 0.4 is a good beginning). It speaks of the tools in `tools`
#   and, if `arguments` names some, of those arguments only. It needs an answer with logprobs: the client asks for them,
#   or, while this policy is enforced, Interlock does. An argument whose tokens are not known is not judged.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-LLM09:2025, OWASP-ASI02, MITRE-ATLAS-AML.T0101]
#   needs: [least]
package interlock.policies.interlock.uncertain_calls

import data.interlock.lib.names

settings := data.interlock.uncertain_calls

tags := ["OWASP-LLM06:2025", "OWASP-LLM09:2025", "OWASP-ASI02", "MITRE-ATLAS-AML.T0101"]

tool_call contains finding if {
	settings.least > 0
	names.listed(input.call.name, settings.tools)
	some argument in input.call.logprobs.arguments
	counts(argument.path)
	argument.min < settings.least
	finding := {
		"id": "unsure_of_argument",
		"severity": "high",
		"action": "deny",
		"message": "An argument of it was a guess. Look up the value, or ask the user for it, and make the call again.",
		"tags": tags,
	}
}

tool_call contains finding if {
	settings.least > 0
	names.listed(input.call.name, settings.tools)
	input.call.logprobs.name.min < settings.least
	finding := {
		"id": "unsure_of_tool",
		"severity": "high",
		"action": "deny",
		"message": "It was not sure that this is the right tool. Say what is to be done and which tool does it, then call it.",
		"tags": tags,
	}
}

counts(_) if count(settings.arguments) == 0

counts(path) if {
	is_string(path)
	names.listed(trim_prefix(path, "/"), settings.arguments)
}
