package interlock.policies.interlock.tools_test

import data.interlock.policies.interlock.tools

ids(agent, name, arguments) := {finding.id |
	some finding in tools.tool_call with input as {
		"identity": {"agent": agent},
		"call": {"name": name, "arguments": arguments},
	}
		with data.interlock.tools.agents as {"ci": ["read_file"], "idle": []}
}

test_a_tool_of_the_list_is_let_by if ids("ci", "read_file", {}) == set()

test_any_other_tool_is_stopped if ids("ci", "run_shell", {}) == {"tool_not_allowed"}

test_an_empty_list_allows_no_tool if ids("idle", "read_file", {}) == {"tool_not_allowed"}

test_an_agent_without_a_list_may_use_any_tool if ids("other", "run_shell", {}) == set()

test_the_type_of_the_arguments_does_not_matter if {
	every arguments in ["x", ["x"], {"a": 1}, 7, null, {"a": {"b": ["c"]}}] {
		ids("ci", "run_shell", arguments) == {"tool_not_allowed"}
	}
}
