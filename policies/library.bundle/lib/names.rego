# METADATA
# title: Names and lists of names
# description: >-
#   Settings name tools, agents, models and hosts as they are called or with `*` for any characters, in lower or upper
#   case alike.
package interlock.lib.names

listed(name, patterns) if {
	is_string(name)
	some pattern in patterns
	matches(trim(lower(name), " \t\r\n"), lower(pattern))
}

matches(name, pattern) if name == pattern

matches(name, pattern) if {
	contains(pattern, "*")
	glob.match(plain(pattern), null, name)
}

# Only `*` means anything but itself.
plain(pattern) := strings.replace_n(
	{"\\": "\\\\", "?": "\\?", "[": "\\[", "]": "\\]", "{": "\\{", "}": "\\}", "!": "\\!"},
	pattern,
)
