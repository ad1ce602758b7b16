package interlock.policies.interlock.paths_test

import data.interlock.policies.interlock.paths

ids(arguments) := given({"name": "read_file", "arguments": arguments, "raw": json.marshal(arguments), "complete": true})

given(call) := {finding.id |
	some finding in paths.tool_call with input as {"call": call}
		with data.interlock.paths.workspace as ["/workspace", "/tmp"]
}

test_paths_inside_are_let_by if {
	every path in ["/workspace/src/a.py", "/workspace", "src/a.py", "./a", "a/../b", "/tmp/x", "/workspace/a/../b", ""] {
		ids({"path": path}) == set()
	}
}

test_paths_outside_are_stopped if {
	every path in [
		"/etc/hosts", "/", "~/notes", "../other", "a/../../b", "/workspace/../etc/hosts", "/workspaces/x", "//etc/hosts",
		"file:///etc/hosts", "/workspace/%2e%2e/etc/hosts", "..\\other", "C:\\Windows", "$HOME/x", " /etc/hosts",
		"/workspace/./../../etc/hosts",
	] {
		ids({"path": path}) == {"outside_workspace"}
	}
}

test_credentials_are_stopped_wherever_they_lie if {
	"sensitive_file" in ids({"path": "/workspace/home/.ssh/id_rsa"})
	"sensitive_file" in ids({"path": "/etc/shadow"})
}

test_the_value_may_be_of_any_type if {
	ids({"path": ["/etc/hosts"]}) == {"outside_workspace"}
	ids({"files": [{"path": "/etc/hosts"}]}) == {"outside_workspace"}
	ids({"file": {"name": {"x": "/etc/hosts"}}}) == {"outside_workspace"}
	ids({"path": 7}) == set()
	ids({"path": null}) == set()
	ids({}) == set()
}

test_other_arguments_are_not_paths if ids({"content": "/etc/hosts", "query": "../x"}) == set()

test_an_incomplete_call_is_judged_by_its_text if {
	given({"name": "read_file", "arguments": null, "raw": `{"path": "/etc/ho`, "complete": false}) == {"outside_workspace"}
}
