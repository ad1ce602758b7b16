package interlock.policies.interlock.delegation_test

import data.interlock.policies.interlock.delegation

given := object.union(data.interlock.delegation, {"most": 2, "agents": {"lead": ["tester", "doc-*"], "alone": [], "boss": ["*"]}})

of(agent, name, arguments, before) := {finding.id |
	some finding in delegation.tool_call with input as {
		"identity": {"agent": agent},
		"call": {"name": name, "arguments": arguments},
		"run": {"recent_calls": [{"name": one} | some one in before]},
	}
		with data.interlock.delegation as given
}

test_a_few_delegations_are_let_by if {
	of("a", "task", {"prompt": "x"}, []) == set()
	of("a", "task", {"prompt": "x"}, ["task", "read_file", "read_file"]) == set()
}

test_many_are_stopped if {
	of("a", "task", {}, ["task", "ls", "spawn_agent"]) == {"too_many_delegations"}
	of("a", "Task", {}, ["TASK", "delegate_to"]) == {"too_many_delegations"}
}

test_other_calls_are_let_by if of("alone", "read_file", {"name": "x"}, ["task", "task", "task"]) == set()

test_only_listed_agents_may_be_called if {
	of("lead", "task", {"subagent_type": "tester"}, []) == set()
	of("lead", "task", {"subagent_type": "doc-writer"}, []) == set()
	of("lead", "task", {"subagent_type": "deployer"}, []) == {"delegate_not_allowed"}
	of("lead", "transfer_to_tester", {}, []) == set()
	of("lead", "transfer_to_billing", {}, []) == {"delegate_not_allowed"}
	of("alone", "task", {"agent": "tester"}, []) == {"delegate_not_allowed"}
	of("boss", "task", {"agent": "anyone"}, []) == set()
}

test_the_agent_may_be_named_in_any_type if {
	every value in [["deployer"], {"id": "deployer"}, [["tester"], {"x": "deployer"}], ["tester", "deployer"]] {
		of("lead", "task", {"agent": value}, []) == {"delegate_not_allowed"}
	}
}

test_a_call_that_names_nobody_is_not_to_one_of_the_list if {
	every arguments in [{}, {"agent": 7}, {"agent": null}, null, "x", ["tester"]] {
		of("lead", "task", arguments, []) == {"delegate_not_allowed"}
	}
}

test_other_spellings_are_the_same if {
	every name in ["spawnAgent", "spawn-agent", "callAgentNow", "Task"] {
		of("lead", name, {"agent": "root"}, []) == {"delegate_not_allowed"}
	}
	of("lead", "task", {"agent": "tester", "subAgentType": "root"}, []) == {"delegate_not_allowed"}
	of("lead", "transferToRoot", {}, []) == {"delegate_not_allowed"}
	of("lead", "transferToTester", {}, []) == set()
	of("lead", "task", {"agent": {"name": "tester"}}, []) == set()
}
