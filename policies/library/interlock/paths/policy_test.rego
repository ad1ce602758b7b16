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

test_other_spellings_of_an_argument_and_of_a_path_are_the_same if {
	every name in ["filePath", "Path", "targetFile", "target-file", "TARGET_FILE", "paths"] {
		ids({name: "/etc/hosts"}) == {"outside_workspace"}
	}
	every path in [
		"file:/etc/hosts", "FILE:///etc/hosts", "file://localhost/etc/hosts", "file://server/share", "C:x", "%TEMP%/x",
		"'/etc/hosts'", "..%5cx", "/workspace/%252e%252e/etc", "a/\u0000/../b", "a,/etc/hosts", "a; ../b",
	] {
		ids({"path": path}) == {"outside_workspace"}
	}
	every path in ["file:///workspace/a", "file://localhost/workspace/a", "a,b", "x = 1\n// y", "100%"] {
		ids({"path": path}) == set()
	}
}

test_keys_below_an_argument_are_paths_too if {
	ids({"files": {"/etc/hosts": "x"}}) == {"outside_workspace"}
	ids({"files": [{"../a": 1}]}) == {"outside_workspace"}
	ids({"files": {"src/a.py": "x = 1"}}) == set()
	ids({"/etc/hosts": "x", "content": {"/etc/hosts": "x"}}) == set()
}

test_a_files_url_is_a_path_in_any_argument if {
	ids({"url": "file:///etc/hosts"}) == {"outside_workspace"}
	ids({"url": "https://example.com/etc/hosts"}) == set()
	ids({"text": "the file: /etc/hosts"}) == set()
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
