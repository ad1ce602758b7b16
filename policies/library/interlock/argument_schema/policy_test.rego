package interlock.policies.interlock.argument_schema_test

import data.interlock.policies.interlock.argument_schema

defaults := object.union(data.interlock.argument_schema, {"tools": ["*"]})

of(settings, name, faults) := {finding.id |
	some finding in argument_schema.tool_call with input as {"call": {"name": name, "faults": faults}}
		with data.interlock.argument_schema as settings
}

fault(kind) := {"path": "/a", "kind": kind}

test_every_kind_has_a_name_of_its_own if {
	every kind in ["type", "value", "missing", "unknown", "unjudged"] {
		of(defaults, "x", [fault(kind)]) == {concat("_", ["argument", kind])}
	}
}

test_what_the_schema_does_not_speak_of_is_let_by_unless_set if {
	of(defaults, "x", [fault("unlisted")]) == set()
	of(object.union(defaults, {"kinds": ["unlisted"]}), "x", [fault("unlisted")]) == {"argument_unlisted"}
}

test_a_call_that_fits_is_let_by if of(defaults, "x", []) == set()

test_only_listed_tools_are_looked_at if {
	of(object.union(defaults, {"tools": ["send_*"]}), "read", [fault("type")]) == set()
	of(object.union(defaults, {"tools": ["send_*"]}), "send_mail", [fault("type")]) == {"argument_type"}
	of(object.union(defaults, {"tools": []}), "send_mail", [fault("type")]) == set()
}

# Where a fault lies, and of what type the argument was, is told by the fact: at any depth.
test_the_place_does_not_matter if {
	every path in ["/a", "/a/0", "/a/b/0/c", ""] {
		of(defaults, "x", [{"path": path, "kind": "type"}]) == {"argument_type"}
	}
}

test_a_missing_fact_is_let_by if {
	{finding.id | some finding in argument_schema.tool_call with input as {"call": {"name": "x"}} with data.interlock.argument_schema as defaults} == set()
}
