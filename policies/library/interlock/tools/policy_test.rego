package interlock.policies.interlock.tools_test

import data.interlock.policies.interlock.tools

given := {
	"agents": {"ci": ["read_file", "git_*"], "idle": []},
	"teams": {"web": ["fetch"]},
	"everyone": [],
	"never": ["format_*"],
}

ids(agent, name, arguments) := of({"agent": agent}, name, arguments, given)

of(identity, name, arguments, settings) := {finding.id |
	some finding in tools.tool_call with input as {"identity": identity, "call": {"name": name, "arguments": arguments}}
		with data.interlock.tools as settings
}

test_a_tool_of_the_list_is_let_by if {
	ids("ci", "read_file", {}) == set()
	ids("ci", "git_log", {}) == set()
}

test_any_other_tool_is_stopped if {
	ids("ci", "run_shell", {}) == {"tool_not_allowed"}
	ids("ci", "digit_log", {}) == {"tool_not_allowed"}
}

test_an_empty_list_allows_no_tool if ids("idle", "read_file", {}) == {"tool_not_allowed"}

test_an_agent_without_a_list_may_use_any_tool if ids("other", "run_shell", {}) == set()

test_a_team_has_a_list_too if {
	of({"agent": "x", "team": "web"}, "fetch", {}, given) == set()
	of({"agent": "x", "team": "web"}, "run_shell", {}, given) == {"tool_not_allowed"}
	of({"agent": "x", "team": "other"}, "run_shell", {}, given) == set()
	of({"agent": "x", "team": null}, "run_shell", {}, given) == set()
}

test_an_agents_own_list_counts_before_its_teams if {
	of({"agent": "ci", "team": "web"}, "read_file", {}, given) == set()
	of({"agent": "ci", "team": "web"}, "fetch", {}, given) == {"tool_not_allowed"}
	of({"agent": "idle", "team": "web"}, "fetch", {}, given) == {"tool_not_allowed"}
}

test_a_list_for_everyone_counts_last if {
	all := object.union(given, {"everyone": ["ls"]})
	of({"agent": "x"}, "ls", {}, all) == set()
	of({"agent": "x"}, "run_shell", {}, all) == {"tool_not_allowed"}
	of({"agent": "ci"}, "ls", {}, all) == {"tool_not_allowed"}
}

test_what_nobody_may_use_no_list_allows if {
	ids("other", "format_disk", {}) == {"tool_forbidden"}
	of({"agent": "ci"}, "format_disk", {}, object.union(given, {"agents": {"ci": ["*"]}})) == {"tool_forbidden"}
}

test_the_type_of_the_arguments_does_not_matter if {
	every arguments in ["x", ["x"], {"a": 1}, 7, null, {"a": {"b": ["c"]}}] {
		ids("ci", "run_shell", arguments) == {"tool_not_allowed"}
	}
}

test_only_a_star_stands_for_other_characters if {
	settings := object.union(given, {"agents": {"ci": ["a?c", "[ab]", "{x,y}", "q!z"]}})
	every name in ["abc", "a", "x"] {
		of({"agent": "ci"}, name, {}, settings) == {"tool_not_allowed"}
	}
	every name in ["a?c", "[ab]", "{x,y}", "q!z", "A?C"] {
		of({"agent": "ci"}, name, {}, settings) == set()
	}
}

test_white_space_around_a_name_does_not_matter if {
	of({"agent": "x"}, "format_disk ", {}, given) == of({"agent": "x"}, "format_disk", {}, given)
	"tool_forbidden" in of({"agent": "x"}, "\tformat_disk\n", {}, given)
}
