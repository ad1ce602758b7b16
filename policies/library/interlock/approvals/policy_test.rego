package interlock.policies.interlock.approvals_test

import data.interlock.policies.interlock.approvals

given := {
	"tools": ["pay*", "send_money"],
	"agents": {"intern": ["deploy"]},
	"above": {"send_money": {"amount": 100}},
}

ids(agent, name, arguments) := {finding.id |
	some finding in approvals.tool_call with input as {"identity": {"agent": agent}, "call": {"name": name, "arguments": arguments}}
		with data.interlock.approvals as given
}

test_a_listed_tool_needs_a_human if {
	ids("a", "pay_invoice", {}) == {"needs_approval"}
	ids("a", "PAY", {"amount": 1}) == {"needs_approval"}
}

test_other_tools_need_none if {
	ids("a", "read_file", {}) == set()
	ids("a", "deploy", {}) == set()
	ids("a", "repay", {}) == set()
}

test_an_agent_has_a_list_of_its_own if ids("intern", "deploy", {}) == {"needs_approval"}

test_a_small_amount_needs_none if {
	ids("a", "send_money", {"amount": 100}) == set()
	ids("a", "send_money", {"amount": "99.50"}) == set()
}

test_a_large_amount_or_one_that_is_none_needs_a_human if {
	every amount in [101, "101", -5, "1e9", "100 000", "", ["5"], [5], {"value": 5}, null, true, "0100"] {
		ids("a", "send_money", {"amount": amount}) == {"needs_approval"}
	}
	every arguments in [{}, null, "x", ["x"], 7, {"nested": {"amount": 5}}] {
		ids("a", "send_money", arguments) == {"needs_approval"}
	}
}

test_an_amount_that_is_said_twice_needs_a_human if {
	ids("a", "send_money", {"amount": 5, "Amount": 1000}) == {"needs_approval"}
	ids("a", "send_money", {"amount": 5, "currency": "EUR"}) == set()
}

test_without_a_list_nothing_needs_approval if {
	found := approvals.tool_call with input as {"identity": {"agent": "a"}, "call": {"name": "pay", "arguments": {}}}
		with data.interlock.approvals as {"tools": [], "agents": {}, "above": {}}
	found == set()
}
