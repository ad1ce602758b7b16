# METADATA
# title: SQL that breaks in, breaks out or destroys
# description: >-
#   Looks at the arguments of database tools (`tools`) for SQL that turns a value into a statement, reads what the database
#   knows of itself and its users, runs programs or reads files of its host, hands out rights, or drops and empties tables.
#   `kinds` says which patterns of the set `sql` count. It is asked only while `watch` is true. The policy
#   `interlock.shell` stops dropping and emptying anyway, by reading the statement; this one knows what it looks like.
# custom:
#   severity: high
#   tags: [OWASP-LLM05:2025, OWASP-LLM06:2025, OWASP-ASI02, OWASP-ASI05, MITRE-ATLAS-AML.T0053, MITRE-ATLAS-AML.T0101]
#   patterns: [sql]
#   needs: [watch]
package interlock.policies.interlock.sql

import data.interlock.lib.names

settings := data.interlock.sql

tags := ["OWASP-LLM05:2025", "OWASP-LLM06:2025", "OWASP-ASI02", "OWASP-ASI05", "MITRE-ATLAS-AML.T0053", "MITRE-ATLAS-AML.T0101"]

destroys := {"drops", "deletes_all", "updates_all"}

tool_call contains finding if {
	some id in seen
	not id in destroys
	finding := {
		"id": "sql_attack",
		"severity": "high",
		"action": "deny",
		"message": "The statement has the form of an attack on the database. Use one plain statement with parameters.",
		"tags": tags,
	}
}

tool_call contains finding if {
	some id in seen
	id in destroys
	finding := {
		"id": "sql_destroys",
		"severity": "high",
		"action": "deny",
		"message": "The statement drops or empties a table, or changes all of it. Name the rows, or ask the user to run it.",
		"tags": tags,
	}
}

seen contains signal.id if {
	some signal in input.signals
	signal.set == "sql"
	signal.id in settings.kinds
	names.listed(input.call.name, settings.tools)
}
