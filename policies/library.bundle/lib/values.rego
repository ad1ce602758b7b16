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

# The strings of a call: of its arguments if it is complete, else every string literal of the text as far as
# the model wrote it, the last one perhaps cut off, and that text itself.
of_call(call) := strings(call.arguments) if is_object(call.arguments)

of_call(call) := array.concat(literals(call.raw), [call.raw]) if not is_object(call.arguments)

# String literals of JSON text that may end anywhere.
literals(raw) := [decoded(found[1]) |
	some found in regex.find_all_string_submatch_n(`"((?:[^"\\]|\\.)*)(?:"|\\?$)`, raw, -1)
]

# A literal that is no JSON is taken as it stands: it must not vanish.
decoded(literal) := text if {
	text := json.unmarshal(concat("", ["\"", literal, "\""]))
} else := literal
