# METADATA
# title: Destructive shell commands
# description: >-
#   Stops commands that destroy what cannot be had again: trees outside the workspace or all of it, disks,
#   databases, infrastructure; and commands that nobody can judge, because their text comes from the network or
#   is encoded. Deleting what the agent itself made, inside the workspace, is ordinary work. What counts as which
#   is in docs/policies.md and in data.json; ordinary.json and destructive.json hold what it is tested with.
# custom:
#   severity: critical
#   tags: [OWASP-LLM06:2025, OWASP-ASI02, OWASP-ASI05, MITRE-ATLAS-AML.T0053]
package interlock.policies.interlock.shell

tags := ["OWASP-LLM06:2025", "OWASP-ASI02", "OWASP-ASI05", "MITRE-ATLAS-AML.T0053"]

tool_call contains {
	"id": "destructive_command",
	"severity": "critical",
	"action": "deny",
	"message": concat(" ", [
		"It would delete or overwrite data outside the workspace, or all of the workspace.",
		"Name the single files or directories inside the workspace that you made and that are to go.",
	]),
	"tags": tags,
} if {
	destructive
}

tool_call contains {
	"id": "destructive_database",
	"severity": "critical",
	"action": "deny",
	"message": concat(" ", [
		"It would drop or empty database tables, or a whole database.",
		"Write the statement to a migration file and ask the user to run it.",
	]),
	"tags": tags,
} if {
	destroys_database
}

tool_call contains {
	"id": "destructive_infrastructure",
	"severity": "critical",
	"action": "deny",
	"message": concat(" ", [
		"It would destroy running infrastructure or stored objects.",
		"Show what would be destroyed (a plan or a dry run) and ask the user to do it.",
	]),
	"tags": tags,
} if {
	destroys_infrastructure
}

tool_call contains {
	"id": "remote_script",
	"severity": "high",
	"action": "deny",
	"message": concat(" ", [
		"It would run a script straight from the network.",
		"Download it to a file, show it, and use a package manager where there is one.",
	]),
	"tags": tags,
} if {
	runs_remote_script
}

tool_call contains {
	"id": "hidden_command",
	"severity": "critical",
	"action": "deny",
	"message": "It would run a command whose text is hidden or encoded. Write the command out in plain text.",
	"tags": tags,
} if {
	hides_command
}
