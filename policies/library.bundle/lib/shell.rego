# METADATA
# title: Reading shell text
# description: >-
#   Takes a command line apart as a shell would: separators outside quotes, words without their quotes, words
#   that are scripts of their own. It is a reader for judging, not a shell: where a spelling could be read two
#   ways it yields both, and a policy judges each.
package interlock.lib.shell

# A command is {"words": [...], "text": "...", "nested": [...], "fed_by": [...]}: its words without quotes, its
# text, the quoted parts that may be scripts, and the words of the commands that are piped into it.
commands(text) := [command |
	parts := regex.find_all_string_submatch_n(segment_pattern, text, -1)
	some index, part in parts
	words := words_of(part[1])
	count(words) > 0
	command := {
		"words": words,
		"text": part[1],
		"nested": nested(part[1]),
		"fed_by": [feeding |
			pipe(parts[index - 1][2])
			some back in [1, 2, 3]
			start := index - back
			start >= 0
			every step in numbers.range(start, index - 1) {
				pipe(parts[step][2])
			}
			feeding := words_of(parts[start][1])
		],
	}
]

# 1: what stands between separators, quotes respected; 2: the separators after it.
segment_pattern := concat("", [
	`(?s)((?:'[^']*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)|\\.|[^'"\\;&|\n()\x60])+)`,
	`([;&|\n()\x60][;&|\n()\x60\s]*)?`,
])

word_pattern := `(?s)(?:'[^']*(?:'|$)|"(?:[^"\\]|\\.)*(?:"|$)|\\.|[^\s'"\\<>])+|[<>]+\|?`

pipe(separators) if {
	startswith(separators, "|")
	not startswith(separators, "||")
}

words_of(segment) := [word |
	some found in regex.find_all_string_submatch_n(word_pattern, segment, -1)
	some word in braces(bare(found[0]))
	word != ""
]

# `{rm,-rf,/}` is three words.
braces(word) := split(trim_suffix(trim_prefix(word, "{"), "}"), ",") if {
	startswith(word, "{")
	endswith(word, "}")
	contains(word, ",")
} else := [word]

# A word without its quotes.
bare(word) := strings.replace_n({"'": "", "\"": "", "\\": ""}, word)

# The quoted parts of a segment that could be scripts, without their outer quotes.
nested(segment) := [inner |
	some found in regex.find_all_string_submatch_n(`(?s)'([^']+)'?|"((?:[^"\\]|\\.)+)"?`, segment, -1)
	inner := concat("", [found[1], strings.replace_n({"\\\"": "\"", "\\$": "$", "\\\\": "\\"}, found[2])])
]

# What look-alikes, continuation lines and empty expansions stand for.
plain(text) := strings.replace_n(spellings, without_lookups(without_ifs(text))) if {
	regex.match(`[\\\r\t$\x60>]|[^\x00-\x7F]`, text)
} else := text

spellings := {
	"\\\r\n": "", "\\\n": "", "\r\n": "\n", "\r": "\n", "\t": " ",
	"\u00a0": " ", "\u1680": " ", "\u2000": " ", "\u2001": " ", "\u2002": " ", "\u2003": " ", "\u2004": " ",
	"\u2005": " ", "\u2006": " ", "\u2007": " ", "\u2008": " ", "\u2009": " ", "\u200a": " ", "\u202f": " ",
	"\u205f": " ", "\u3000": " ", "\u2028": "\n", "\u2029": "\n", "\u0085": "\n",
	"\u2010": "-", "\u2011": "-", "\u2012": "-", "\u2013": "-", "\u2014": "-", "\u2015": "-", "\u2212": "-",
	"\ufe58": "-", "\ufe63": "-", "\uff0d": "-",
	"\u2044": "/", "\u2215": "/", "\uff0f": "/",
	"\u2018": "'", "\u2019": "'", "\u201c": "\"", "\u201d": "\"",
	"\u200b": "", "\u200c": "", "\u200d": "", "\u2060": "", "\ufeff": "", "\u00ad": "",
	"$@": "", "$*": "", "${@}": "", "${*}": "", "``": "", "$()": "", "$'": "'", "$\"": "\"", "$9": "", ">|": ">",
}

# `$(which rm)` is `rm`, `$(true)` is nothing, and what `mktemp` makes is scratch.
without_lookups(text) := concat("", [piece |
	some found in regex.find_all_string_submatch_n(lookup_pattern, text, -1)
	piece := looked_up(found)
]) if {
	mentions(text, ["$(", "`"])
	mentions(text, ["which", "command", "type", "whence", "true", "(:", "mktemp"])
} else := text

lookup_pattern := concat("", [
	`(?s)(?:\$\(|\x60)\s*(?:(?:which|command\s+-v|type\s+-[pP]|whence)\s+([\w./-]+)|(true|:)|(mktemp[^()\x60]*))\s*[)\x60]`,
	`|[^$\x60]+|[$\x60]`,
])

looked_up(found) := "/tmp/made-by-mktemp" if found[3] != ""

looked_up(found) := found[1] if {
	found[3] == ""
	concat("", [found[1], found[2]]) != ""
}

looked_up(found) := found[0] if concat("", array.slice(found, 1, 4)) == ""

# Substitutions between backticks as the other kind.
dollared(text) := concat("", [piece |
	some found in regex.find_all_string_submatch_n(`(?s)\x60([^\x60\\]+)\x60|[^\x60]+|\x60`, text, -1)
	piece := in_dollars(found)
])

in_dollars(found) := concat("", ["$(", found[1], ")"]) if found[1] != ""

in_dollars(found) := found[0] if found[1] == ""

without_ifs(text) := concat("", [piece |
	some found in regex.find_all_string_submatch_n(`(?s)(\$\{IFS[^}]*\}|\$IFS)|[^$]+|\$`, text, -1)
	piece := spaced(found)
]) if {
	contains(text, "IFS")
} else := text

spaced(found) := " " if found[1] != ""

spaced(found) := found[0] if found[1] == ""

# The text as it stands, and with the variables that it sets itself put in. A variable that is set more than
# once gives one reading per value.
readings(text) := [text] if not sets_variables(text)

readings(text) := array.concat([text], [read |
	found := regex.find_all_string_submatch_n(assignment_pattern, text, -1)
	some nth in [0, 1, 2, 3]
	nth < most(found)
	read := split_by_ifs(filled(filled(text, found, nth), found, nth))
]) if sets_variables(text)

# With `IFS=_`, `rm_-rf` is two words.
split_by_ifs(text) := text if not contains(text, "IFS=")

split_by_ifs(text) := strings.replace_n({separator: " " | some separator in separators(text)}, text) if contains(text, "IFS=")

separators(text) := {found[1] |
	some found in regex.find_all_string_submatch_n(`\bIFS=["']?([^"'\s\\$;&|])`, text, -1)
}

# Whether the variable at the beginning of `target` is set in this text just once, to a value that stands there,
# and by nothing else (`read`, `for`): then the readings say what it is.
settled(target, text) if {
	name := trim(split(target, "/")[0], "${}")
	regex.match(`^[A-Za-z_]\w*$`, name)
	count([1 |
		some found in regex.find_all_string_submatch_n(`(?:[$]\{?|[/.-])?[A-Za-z_]\w*`, text, -1)
		found[0] == name
	]) == 1
	some found in regex.find_all_string_submatch_n(assignment_pattern, text, -1)
	found[1] == name
	not mentions(found[2], ["$", "`"])
	bare(found[2]) != ""
}

assignment_pattern := `(?:^|[;&|\s(])([A-Za-z_]\w*)=('[^']*'|"[^"]*"|[^\s;&|()'"]*)`

sets_variables(text) if {
	contains(text, "=")
	contains(text, "$")
}

most(found) := max(array.concat([0], [uses |
	some one in found
	uses := count([1 | some other in found; other[1] == one[1]])
]))

filled(text, found, nth) := concat("", [piece |
	some part in regex.find_all_string_submatch_n(`(?s)\$\{(\w+)\}|\$([A-Za-z_]\w*)|[^$]+|\$`, text, -1)
	piece := value_of(part, found, nth)
])

value_of(part, found, nth) := bare(values[min([nth, count(values) - 1])]) if {
	name := concat("", [part[1], part[2]])
	name != ""
	values := [one[2] | some one in found; one[1] == name]
	count(values) > 0
} else := part[0]

# The last step of a path: `/bin/rm` is `rm`.
basename(word) := word if {
	not contains(word, "/")
} else := steps[count(steps) - 1] if steps := split(word, "/")

# Whether an option of `args` is the long option `long` (or a beginning of it) or has a letter of `letters`
# in a cluster of short ones.
has_option(args, letters, _) if {
	some arg in args
	startswith(arg, "-")
	not startswith(arg, "--")
	some letter in letters
	contains(arg, letter)
}

has_option(args, _, long) if {
	some arg in args
	startswith(arg, "--")
	count(arg) > 4
	startswith(long, split(arg, "=")[0])
}

# The arguments that are neither options nor redirections.
operands(args) := [arg |
	some index, arg in args
	not startswith(arg, "-")
	not redirects(arg)
	not redirected(args, index)
]

redirected(args, index) if {
	index > 0
	redirects(args[index - 1])
}

redirects(word) if startswith(word, "<")

redirects(word) if startswith(word, ">")

# Whether any of `parts` stands in `text`: the cheap question before an expression, which is compiled anew for
# every decision.
mentions(text, parts) if {
	some part in parts
	contains(text, part)
}
