package interlock.policies.interlock.secrets_out_test

import data.interlock.policies.interlock.secrets_out

output(signals) := {finding.id | some finding in secrets_out.output with input as {"signals": signals}}

reasoning(signals) := {finding.id | some finding in secrets_out.reasoning with input as {"signals": signals}}

signal(set) := {"set": set, "id": "github_token", "severity": "critical", "path": "", "count": 1, "start": 3, "end": 43}

test_a_secret_in_the_answer_is_found if output([signal("secrets")]) == {"secret_in_answer"}

test_a_secret_in_the_reasoning_is_found if reasoning([signal("secrets")]) == {"secret_in_reasoning"}

test_a_secret_beside_other_signals_is_found if {
	output([signal("pii"), signal("secrets"), signal("secrets")]) == {"secret_in_answer"}
}

test_personal_data_is_no_secret if {
	output([signal("pii")]) == set()
	reasoning([signal("pii")]) == set()
}

test_no_signal_is_let_by if output([]) == set()

test_a_missing_list_is_let_by if {
	{finding.id | some finding in secrets_out.output with input as {}} == set()
	{finding.id | some finding in secrets_out.reasoning with input as {}} == set()
}
