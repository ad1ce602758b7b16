package interlock.policies.interlock.secrets_test

import data.interlock.policies.interlock.secrets

ids(signals) := {finding.id | some finding in secrets.tool_call with input as {"signals": signals}}

signal(set, path) := {"set": set, "id": "github_token", "severity": "critical", "path": path, "count": 1}

test_a_secret_is_stopped if ids([signal("secrets", "/command")]) == {"secret_in_arguments"}

# Whatever type the argument had, its strings were looked at before: the path says where.
test_a_secret_at_any_depth_is_stopped if {
	every path in ["/a", "/a/0", "/a/b/0/c", ""] {
		ids([signal("secrets", path)]) == {"secret_in_arguments"}
	}
}

test_no_signal_is_let_by if ids([]) == set()

test_a_missing_list_is_let_by if {
	{finding.id | some finding in secrets.tool_call with input as {}} == set()
}

test_personal_data_is_no_secret if ids([signal("pii", "/command")]) == set()
