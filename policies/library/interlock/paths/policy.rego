# METADATA
# title: File paths outside the workspace
# description: >-
#   A tool that reads or writes files is kept to the workspace: paths that begin elsewhere, climb out of it with
#   `..`, or name a home directory. `workspace`, the argument names that hold paths and the list of sensitive
#   files are data.
# custom:
#   severity: high
#   tags: [OWASP-LLM06:2025, OWASP-ASI02, MITRE-ATLAS-AML.T0053]
package interlock.policies.interlock.paths

import data.interlock.lib.values

settings := data.interlock.paths

tags := ["OWASP-LLM06:2025", "OWASP-ASI02", "MITRE-ATLAS-AML.T0053"]

tool_call contains finding if {
	some path in paths
	outside(path)
	finding := {
		"id": "outside_workspace",
		"severity": "high",
		"action": "deny",
		"message": "It names a path outside the workspace. Use a path inside the workspace, without `..` or `~`.",
		"tags": tags,
	}
}

tool_call contains finding if {
	some path in paths
	some name in settings.sensitive
	contains(concat("", ["/", path, "/"]), name)
	finding := {
		"id": "sensitive_file",
		"severity": "critical",
		"action": "deny",
		"message": "It names a file that holds credentials. Work without it, or ask the user for what you need.",
		"tags": tags,
	}
}

# The strings below an argument that holds a path; all of them while the arguments are not complete, because
# which argument a string belongs to is then not known.
paths contains plain(text) if {
	names := {name | some name in settings.argument_names}
	some text in values.under(input.call.arguments, names)
}

paths contains plain(text) if {
	not is_object(input.call.arguments)
	some text in values.literals(input.call.raw)
	startswith(text, "/")
}

# One spelling for what file systems and URL readers take as the same path.
plain(text) := collapse(collapse(trim_prefix(
	strings.replace_n({"%2e": ".", "%2E": ".", "%2f": "/", "%2F": "/", "\\": "/"}, trim_space(text)),
	"file://",
)))

collapse(text) := replace(replace(text, "/./", "/"), "//", "/")

outside(path) if startswith(path, "~")

outside(path) if startswith(path, "$")

outside(path) if regex.match(`^[A-Za-z]:/`, path)

outside(path) if {
	startswith(path, "/")
	not inside(path)
}

outside(path) if {
	not startswith(path, "/")
	climbs(split(path, "/"))
}

inside(path) if {
	some root in settings.workspace
	base := trim_suffix(root, "/")
	path == base
}

inside(path) if {
	some root in settings.workspace
	base := concat("", [trim_suffix(root, "/"), "/"])
	startswith(path, base)
	not climbs(split(trim_prefix(path, base), "/"))
}

# A path climbs out of where it starts if some prefix of it has more `..` than names.
climbs(steps) if {
	some index, step in steps
	step == ".."
	prefix := array.slice(steps, 0, index + 1)
	ups := count([1 | some s in prefix; s == ".."])
	names := count([1 | some s in prefix; not s in ["..", ".", ""]])
	ups > names
}
