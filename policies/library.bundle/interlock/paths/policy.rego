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

# The strings below an argument that holds a path, keys too; all of them while the arguments are not complete, because
# which argument a string belongs to is then not known.
paths contains plain(text) if {
	names := {values.squashed(name) | some name in settings.argument_names}
	some listed in values.below(input.call.arguments, names)
	some text in several(listed)
}

# A file's URL is a path wherever it stands.
paths contains plain(text) if {
	some text in values.of_call({"arguments": input.call.arguments, "raw": input.call.raw})
	regex.match(file_url, text)
}

paths contains plain(text) if {
	not is_object(input.call.arguments)
	some text in values.literals(input.call.raw)
	startswith(text, "/")
}

# A list of paths in one string.
several(text) := split(replace(text, ";", ","), ",") if {
	count(text) < 1000
	not contains(text, "\n")
} else := [text]

file_url := `(?is)^[\s"'\x60]*file:(?://localhost)?(.*)$`

# One spelling for what file systems and URL readers take as the same path.
plain(text) := collapse(collapse(strings.replace_n(
	{"%2e": ".", "%2E": ".", "%2f": "/", "%2F": "/", "%5c": "/", "%5C": "/", "\\": "/"},
	replace(trim(local(text), " \t\r\n'\"`"), "%25", "%"),
)))

local(text) := regex.find_all_string_submatch_n(file_url, text, 1)[0][1] if {
	regex.match(file_url, text)
} else := text

collapse(text) := replace(replace(text, "/./", "/"), "//", "/")

outside(path) if startswith(path, "~")

outside(path) if startswith(path, "$")

outside(path) if regex.match(`^(?:[A-Za-z]:|%[A-Za-z_]+%)`, path)

# Where it ends is not the same for everybody.
outside(path) if contains(path, "\u0000")

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
