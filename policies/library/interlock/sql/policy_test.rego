package interlock.policies.interlock.sql_test

import data.interlock.policies.interlock.sql

of(name, signals) := {finding.id | some finding in sql.tool_call with input as {"call": {"name": name}, "signals": signals}}

signal(set, id, path) := {"set": set, "id": id, "severity": "high", "path": path, "count": 1}

test_an_attack_is_stopped if {
	every id in ["always_true", "stacked", "union_select", "reads_schema", "runs_commands", "waits", "grants_all"] {
		of("execute_sql", [signal("sql", id, "/query")]) == {"sql_attack"}
	}
}

test_destruction_is_stopped if {
	every id in ["drops", "deletes_all", "updates_all"] {
		of("run_query", [signal("sql", id, "/query")]) == {"sql_destroys"}
	}
	of("run_query", [signal("sql", "drops", ""), signal("sql", "stacked", "")]) == {"sql_destroys", "sql_attack"}
}

test_other_tools_may_speak_of_sql if of("write_file", [signal("sql", "drops", "/content")]) == set()

test_other_signals_are_let_by if {
	of("execute_sql", [signal("secrets", "drops", "/query")]) == set()
	of("execute_sql", []) == set()
}

test_settings_say_which_count if {
	found := sql.tool_call with input as {"call": {"name": "execute_sql"}, "signals": [signal("sql", "waits", "")]}
		with data.interlock.sql.kinds as ["drops"]
	found == set()
}

# Whatever type the argument had, its strings were looked at before: the path says where.
test_the_place_does_not_matter if {
	every path in ["/a", "/a/0", "/a/b/0/c", ""] {
		of("execute_sql", [signal("sql", "stacked", path)]) == {"sql_attack"}
	}
}

test_a_missing_list_is_let_by if {
	{finding.id | some finding in sql.tool_call with input as {"call": {"name": "execute_sql"}}} == set()
}
