# METADATA
# title: How far an agent may delegate
# description: >-
#   Limits the calls that hand work to another agent. `most` is how many of the run's latest 16 calls may be such calls;
#   `agents` gives, for an agent, the agents that it may hand work to (`*` for any, an empty list for none). `tools` and
#   `argument_names` say what such a call looks like; a tool may name the agent itself, as `transfer_to_billing` does. How
#   deep agents call each other is not known here: each sees its own run.
# custom:
#   severity: medium
#   tags: [OWASP-LLM06:2025, OWASP-LLM10:2025, OWASP-ASI03, OWASP-ASI07, OWASP-ASI08, MITRE-ATLAS-AML.T0053]
#   needs: [most, agents]
package interlock.policies.interlock.delegation

import data.interlock.lib.names
import data.interlock.lib.values

settings := data.interlock.delegation

tags := ["OWASP-LLM06:2025", "OWASP-LLM10:2025", "OWASP-ASI03", "OWASP-ASI07", "OWASP-ASI08", "MITRE-ATLAS-AML.T0053"]

tool_call contains finding if {
	settings.most > 0
	delegates(input.call.name)
	count([1 | some call in input.run.recent_calls; delegates(call.name)]) >= settings.most
	finding := {
		"id": "too_many_delegations",
		"severity": "medium",
		"action": "deny",
		"message": "This run has handed on enough work. Do the rest yourself, or tell the user what is left.",
		"tags": tags,
	}
}

tool_call contains finding if {
	allowed := settings.agents[input.identity.agent]
	delegates(input.call.name)
	not to_one_of(allowed)
	finding := {
		"id": "delegate_not_allowed",
		"severity": "high",
		"action": "deny",
		"message": "This agent may not hand work to that agent. Do it yourself, or hand it to one that it may call.",
		"tags": tags,
	}
}

delegates(name) if names.listed(name, settings.tools)

delegates(name) if names.listed(values.squashed(name), [values.squashed(tool) | some tool in settings.tools])

# Every agent that the call names is on the list, and it names one.
to_one_of(allowed) if "*" in allowed

to_one_of(allowed) if {
	count(named) > 0
	every name in named {
		names.listed(name, allowed)
	}
}

named contains name if {
	argument_names := {values.squashed(argument) | some argument in settings.argument_names}
	walk(input.call.arguments, [path, name])
	is_string(name)
	some step in path
	is_string(step)
	values.squashed(step) in argument_names
}

named contains trim_prefix(lower(input.call.name), "transfer_to_") if startswith(lower(input.call.name), "transfer_to_")

named contains trim_prefix(lower(input.call.name), "transferto") if startswith(lower(input.call.name), "transferto")
