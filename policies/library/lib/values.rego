# METADATA
# title: Reading argument values
# description: >-
#   A tool's arguments are whatever the model wrote: a string where a list was expected, a list where a string
#   was, objects in objects. A builtin that is handed the wrong type is undefined inside its rule, and the rule
#   is then silently off. So policies hand builtins only what these helpers yield, which are always strings.
package interlock.lib.values

# Every string in a value of any type and nesting, in order, object keys too.
strings(value) := array.concat(values(value), keys(value))

# Every string that stands as a value.
values(value) := [text |
	walk(value, [_, text])
	is_string(text)
]

# Every object key.
keys(value) := [key |
	walk(value, [path, _])
	count(path) > 0
	key := path[count(path) - 1]
	is_string(key)
]

# Every string that stands below an object key of `names` (lower case), at any depth.
under(value, names) := [text |
	walk(value, [path, text])
	is_string(text)
	some step in path
	is_string(step)
	lower(step) in names
]

# Every string, keys too, that stands below an object key of `names`, at any depth. Names are written as `squashed`
# writes them: `target_file`, `targetFile` and `target-file` are one.
below(value, names) := array.concat(
	[text |
		walk(value, [path, text])
		is_string(text)
		some step in path
		is_string(step)
		squashed(step) in names
	],
	[key |
		walk(value, [path, _])
		count(path) > 1
		key := path[count(path) - 1]
		is_string(key)
		some step in array.slice(path, 0, count(path) - 1)
		is_string(step)
		squashed(step) in names
	],
)

squashed(name) := replace(replace(lower(name), "_", ""), "-", "")

# The strings of a call: of its arguments if it is complete, else every string literal of the text as far as
# the model wrote it, the last one perhaps cut off, and that text itself.
of_call(call) := strings(call.arguments) if is_object(call.arguments)

of_call(call) := array.concat(literals(call.raw), [call.raw]) if not is_object(call.arguments)

# String literals of JSON text that may end anywhere.
literals(raw) := [decoded(found[1]) |
	some found in regex.find_all_string_submatch_n(`"((?:[^"\\]|\\.)*)(?:"|\\?$)`, raw, -1)
]

# What a literal says. Escape by escape, because the engines differ in what they make of a literal that is no JSON;
# an escape that is none, or half of a pair, stands for itself: it must not vanish.
decoded(literal) := literal if not contains(literal, "\\")

decoded(literal) := concat("", [unescaped(token[0]) |
	some token in regex.find_all_string_submatch_n(escape_pattern, literal, -1)
]) if {
	contains(literal, "\\")
}

escape_pattern := concat("", [
	`(?s)\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}`,
	`|\\u[0-9a-fA-F]{4}|\\.|[^\\]+|\\`,
])

unescaped(token) := text if {
	regex.match(known_escape, token)
	text := json.unmarshal(concat("", ["\"", token, "\""]))
} else := token

known_escape := concat("", [
	`^\\(?:["\\/bfnrt]|u(?:[0-9a-ce-fA-CE-F][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}`,
	`|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))$`,
])

# The value of JSON text; undefined for any other text. `json.unmarshal` alone is not the same on both engines: one
# overlooks text behind the value, commas and zeros, and stops at half of a surrogate pair. So the tokens are looked at
# before, and such halves replaced, as readers do that take them.
from_json(text) := value if {
	tokens := [found[0] | some found in regex.find_all_string_submatch_n(json_token, text, -1)]
	concat("", tokens) == text
	kinds := concat("", [kind(token) | some token in tokens])
	regex.match(`^[svn\[{]`, kinds)
	not regex.match(`[svn\]}][svn\[{]|,[\]},:]|[\[{:,][,:]|:[\]}]|[,:]$|^[svn].`, kinds)
	[value, "end"] = json.unmarshal(concat("", ["[", concat("", [whole_pairs(token) | some token in tokens]), `,"end"]`]))
}

json_token := concat("", [
	`"(?:[^"\\\x00-\x1f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"`,
	`|-?(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,15})?(?:[eE][+-]?[0-9]{1,2})?|true|false|null|[\[\]{}:,]|[ \t\n\r]+`,
])

# One letter for each token: s(tring), n(umber), v(alue), the mark itself, nothing for white space.
kind(token) := "s" if {
	startswith(token, "\"")
} else := token if {
	token in {"[", "]", "{", "}", ":", ","}
} else := "v" if {
	token in {"true", "false", "null"}
} else := "" if {
	trim(token, " \t\n\r") == ""
} else := "n"

whole_pairs(token) := token if not contains(lower(token), `\ud`)

whole_pairs(token) := concat("", [whole_pair(part[0]) |
	some part in regex.find_all_string_submatch_n(escape_pattern, token, -1)
]) if {
	contains(lower(token), `\ud`)
}

whole_pair(part) := `\ufffd` if {
	regex.match(`^\\u[dD][89a-fA-F]..$`, part)
} else := part

# A number from 0 to 10^15 from a number or its plain digits; undefined for anything else.
number(value) := value if is_number(value)

number(value) := to_number(value) if {
	is_string(value)
	regex.match(`^(?:0|[1-9][0-9]{0,14})(?:\.[0-9]{1,6})?$`, value)
}
