package interlock.policies.interlock.changed_tools_test

import data.interlock.policies.interlock.changed_tools

of(tools, call) := {finding.id |
	some finding in changed_tools.tool_call with input as {"call": call} with data.interlock.changed_tools.tools as tools
}

test_a_changed_tool_is_stopped if of(["*"], {"name": "search", "changed": true}) == {"tool_changed"}

test_one_that_is_as_it_was_is_let_by if of(["*"], {"name": "search", "changed": false}) == set()

test_only_watched_tools_count if {
	of(["mcp_*"], {"name": "search", "changed": true}) == set()
	of(["mcp_*"], {"name": "mcp_search", "changed": true}) == {"tool_changed"}
	of([], {"name": "search", "changed": true}) == set()
}

test_the_type_of_the_arguments_does_not_matter if {
	every arguments in ["x", ["x"], {"a": 1}, 7, null, {"a": {"b": ["c"]}}] {
		of(["*"], {"name": "search", "changed": true, "arguments": arguments}) == {"tool_changed"}
	}
}

test_a_missing_fact_is_let_by if of(["*"], {"name": "search"}) == set()
