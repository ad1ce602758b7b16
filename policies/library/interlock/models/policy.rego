# METADATA
# title: Models and sampling an agent may ask for
# description: >-
#   Which models a request may name (`models` for all, `agents.<name>.models` for one agent, whose own list counts
#   instead), and how far its sampling goes: `limits` gives the greatest value of `temperature`, `top_p`, `n`,
#   `max_tokens` and any other number that a request can ask for; with a limit for `max_tokens` a request must say how
#   much it wants. `tool_choice` lists the choices that are allowed (`auto`, `none`, `required`, `named`).
# custom:
#   severity: medium
#   tags: [OWASP-LLM10:2025, OWASP-ASI03, MITRE-ATLAS-AML.T0034]
#   needs: [models, agents, limits, tool_choice]
package interlock.policies.interlock.models

import data.interlock.lib.names

settings := data.interlock.models

tags := ["OWASP-LLM10:2025", "OWASP-ASI03", "MITRE-ATLAS-AML.T0034"]

request contains finding if {
	count(models) > 0
	not names.listed(input.request.model, models)
	finding := {
		"id": "model_not_allowed",
		"severity": "high",
		"action": "deny",
		"message": "This agent may not use that model. Ask for one of the models that it was given.",
		"tags": tags,
	}
}

request contains finding if {
	some field, most in limits
	is_number(most)
	not within(field, most)
	finding := {
		"id": "over_limit",
		"severity": "medium",
		"action": "deny",
		"message": "It asks for more than its sampling limits allow. Lower temperature, n or max_tokens, or what else is limited.",
		"tags": tags,
	}
}

request contains finding if {
	count(settings.tool_choice) > 0
	not choice in settings.tool_choice
	finding := {
		"id": "tool_choice_not_allowed",
		"severity": "medium",
		"action": "deny",
		"message": "That tool_choice is not allowed here. Let the model choose, or use one that is allowed.",
		"tags": tags,
	}
}

models := settings.agents[input.identity.agent].models if {
	settings.agents[input.identity.agent].models
} else := settings.models

# The limits of all, with the agent's own laid over them.
limits := object.union(settings.limits, own)

own := settings.agents[input.identity.agent].limits if {
	settings.agents[input.identity.agent].limits
} else := {}

# What is not asked for is within every limit, but for the length: without one the model may go on to its end.
within("n", most) if input.request.n <= most

within(field, _) if {
	not field in {"n", "max_tokens"}
	not input.request.sampling[field]
}

within(field, most) if {
	field != "n"
	value := input.request.sampling[field]
	is_number(value)
	value <= most
}

choice := "auto" if {
	input.request.tool_choice == null
} else := lower(input.request.tool_choice) if {
	is_string(input.request.tool_choice)
} else := "named"
