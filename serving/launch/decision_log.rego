# What OPA's decision log may hold of a question of Interlock's: which exchange, agent, tool and rule, and no content.
#
# What is not listed here is not logged, so a field that a later version of the input adds is not either. A decision
# about anything else that this OPA serves is left as it is.
package system.log

mask contains {"op": "upsert", "path": "/input", "value": question} if asked_by_interlock

mask contains {"op": "upsert", "path": "/result", "value": answer} if asked_by_interlock

asked_by_interlock if startswith(trim_left(input.path, "/"), "interlock/")

question := object.union(kept(said, {"version", "stage", "time", "exchange"}), {
	"identity": kept(part("identity"), {"agent", "team"}),
	"run": kept(part("run"), {"id", "step", "tool_calls", "tokens", "cost_usd"}),
	"call": call,
	"surface": kept(part("surface"), {"choice", "name", "bytes", "complete"}),
	"signals": [kept(signal, {"set", "id", "severity", "count"}) | some signal in said.signals],
	"checks": [kept(check, {"check", "status", "surface"}) | some check in said.checks],
})

# A name that the model made up may be anything; one that the request offered is a tool's.
call := kept(part("call"), {"name", "index", "choice", "complete", "offered"}) if {
	part("call").offered == true
} else := kept(part("call"), {"index", "choice", "complete", "offered"})

part(name) := object.get(said, name, {})

# Every policy of a stage at once: policy to findings. One alone: its findings.
answer := {policy: [finding(one) | some one in found] | some policy, found in input.result; is_name(policy)} if {
	is_object(input.result)
} else := [finding(one) | some one in input.result] if {
	is_array(input.result)
} else := null

finding(one) := object.union(
	kept(one, {"id", "severity", "action"}),
	{"tags": [tag | some tag in object.get(one, "tags", []); is_name(tag)]},
)

said := input.input if {
	is_object(input.input)
} else := {}

# Of `keys` those that are there and hold a name, a number or a truth value.
kept(value, keys) := {key: value[key] | some key in keys; is_plain(value[key])} if {
	is_object(value)
} else := {}

is_plain(value) if is_name(value)

is_plain(value) if is_number(value)

is_plain(value) if is_boolean(value)

is_name(value) if {
	is_string(value)
	regex.match(`^[A-Za-z0-9_][A-Za-z0-9_.:/+-]{0,99}$`, value)
}
