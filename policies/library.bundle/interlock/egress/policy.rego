# METADATA
# title: Hosts that tools may talk to
# description: >-
#   Network egress. `hosts` (for all) and `agents.<name>` (for one agent, beside them) list the hosts that a tool call
#   may name: `example.com`, `*.example.com`, `10.0.0.0/8`. While both are empty any host is allowed but those in
#   `blocked`: the addresses at which clouds hand out credentials, in any spelling. Hosts that are not written as they
#   are (numbers for an address, a user that looks like a host) are found always. It looks at URLs in every string, at
#   the arguments in `argument_names`, and at what network programs are given on a command line.
# custom:
#   severity: high
#   tags: [OWASP-LLM02:2025, OWASP-LLM06:2025, OWASP-ASI02, OWASP-ASI03, MITRE-ATLAS-AML.T0086, MITRE-ATLAS-AML.T0025]
package interlock.policies.interlock.egress

import data.interlock.lib.hosts
import data.interlock.lib.values

settings := data.interlock.egress

tags := ["OWASP-LLM02:2025", "OWASP-LLM06:2025", "OWASP-ASI02", "OWASP-ASI03", "MITRE-ATLAS-AML.T0086", "MITRE-ATLAS-AML.T0025"]

tool_call contains finding if {
	some host in named
	hosts.on_list(host.name, settings.blocked)
	finding := {
		"id": "metadata_address",
		"severity": "critical",
		"action": "deny",
		"message": "It names an address of the machine's own network, where credentials are handed out. Do without it.",
		"tags": tags,
	}
}

tool_call contains finding if {
	some host in named
	hosts.disguised(host)
	finding := {
		"id": "disguised_host",
		"severity": "high",
		"action": "deny",
		"message": "It names a host in a way that hides which one it is. Write the host's plain name.",
		"tags": tags,
	}
}

tool_call contains finding if {
	count(allowed) > 0
	some host in named
	not hosts.on_list(host.name, allowed)
	finding := {
		"id": "host_not_allowed",
		"severity": "high",
		"action": "deny",
		"message": "It names a host that this agent may not talk to. Use one of the hosts that were given for this task.",
		"tags": tags,
	}
}

allowed := array.concat(settings.hosts, own)

own := settings.agents[input.identity.agent] if {
	settings.agents[input.identity.agent]
} else := []

named contains host if {
	hosts.mentions_url(joined)
	some text in texts
	some host in hosts.of_urls(text)
}

named contains host if {
	bare_hosts_count
	names := {values.squashed(name) | some name in settings.argument_names}
	some text in values.below(input.call.arguments, names)
	some host in hosts.of_value(text)
}

named contains host if {
	bare_hosts_count
	some text in command_texts
	some host in array.concat(hosts.of_command(text), hosts.of_sockets(text))
}

texts := values.of_call({"arguments": input.call.arguments, "raw": input.call.raw})

# For the cheap questions: all of it at once.
joined := lower(concat("\n", texts))

# Hosts without a scheme are looked for if there is a list, or if what clouds' addresses are made of stands there.
bare_hosts_count if count(allowed) > 0

bare_hosts_count if {
	some hint in settings.hints
	contains(joined, hint)
}

command_texts contains text if {
	some text in values.under(input.call.arguments, settings.command_names)
}

command_texts contains input.call.raw if not is_object(input.call.arguments)
