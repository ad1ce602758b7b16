# Which strings of a call are judged as commands: every string of a tool whose name speaks of a shell, the
# strings under an argument whose name speaks of a command for any other tool, and lists and objects of them
# also as the one command that a harness would make of them.
package interlock.policies.interlock.shell

import data.interlock.lib.shell
import data.interlock.lib.values

settings := data.interlock.shell

# Every value in the arguments, each with its path: [path, value]. Walked once, for all rules.
places := [place | walk(input.call.arguments, place)]

# The strings among them, and those that stand where a command does.
texts := [text | some [_, text] in places; is_string(text)]

named := values.under(input.call.arguments, argument_names)

# The names that are listed, and whatever else of the call's names speaks of a command (`bash_cmd`, `shellCommand`).
argument_names := {name | some name in settings.argument_names} | {name |
	some [path, _] in places
	count(path) > 0
	key := path[count(path) - 1]
	is_string(key)
	name := lower(key)
	shell.mentions(name, settings.argument_words)
	not shell.mentions(name, settings.told_words)
}

tool_words := {word |
	some word in split(strings.replace_n({"-": "_", ".": "_", ":": "_", "/": "_", " ": "_"}, lower(input.call.name)), "_")
}

# `run_script` and `script` run one; `get_script` and `process_refund` do not.
shell_tool if {
	some word in tool_words
	word in settings.tool_words
} else if {
	some word in tool_words
	word in settings.run_words
	every other in tool_words - {word} {
		other in settings.running_words
	}
} else if {
	some part in ["shell", "bash", "terminal", "powershell", "runcommand", "execcommand", "executecommand", "runcode"]
	contains(lower(input.call.name), part)
}

complete if is_object(input.call.arguments)

candidates contains text if {
	complete
	shell_tool
	some text in array.concat(texts, values.keys(input.call.arguments))
}

candidates contains text if {
	complete
	some text in named
}

# A list of strings is also a command line.
candidates contains joined(values.values(item)) if {
	complete
	some [path, item] in places
	is_array(item)
	judged_place(path)
}

# An object that holds a program and its arguments, in either order.
candidates contains joined(array.concat(first, rest)) if {
	complete
	some [path, item] in places
	is_object(item)
	judged_place(path)
	first := [item[key] | some key in program_names; is_string(item[key])]
	count(first) > 0
	rest := [text | some key, part in item; not key in program_names; some text in values.values(part)]
}

program_names := ["program", "executable", "binary", "bin", "exec", "command", "cmd", "name", "path"]

# The command in one argument and its own arguments in another, in either order.
candidates contains joined(array.concat(named, others)) if {
	complete
	judged_object
	others := [text |
		some text in texts
		not text in named
	]
	count(others) > 0
}

# Not complete: every literal of what was written so far, under whatever name.
candidates contains text if {
	not complete
	some text in array.concat(values.literals(input.call.raw), [input.call.raw])
}

candidates contains joined(values.literals(input.call.raw)) if not complete

# A string that is itself JSON: all of it where all of the string is a command, else what it names a command.
candidates contains text if {
	complete
	some [path, outer] in places
	is_string(outer)
	judged_place(path)
	decoded := decoded_json(outer)
	some text in array.concat(values.values(decoded), [joined(values.values(decoded))])
}

candidates contains text if {
	complete
	some [path, outer] in places
	is_string(outer)
	not text_of_a_file(path)
	decoded := decoded_json(outer)
	within := values.under(decoded, argument_names)
	some text in array.concat(within, [joined(within)])
}

text_of_a_file(path) if lower(path[count(path) - 1]) in settings.file_text_names

decoded_json(text) := values.from_json(text) if substring(trim_space(text), 0, 1) in ["[", "{"]

judged_object if {
	shell_tool
} else if {
	count(named) > 0
}

judged_place(path) if {
	shell_tool
} else if {
	some step in path
	is_string(step)
	lower(step) in argument_names
}

joined(parts) := concat(" ", [quoted |
	some part in parts
	quoted := as_word(part)
])

as_word(part) := concat("", ["'", replace(part, "'", ""), "'"]) if {
	regex.match(`[ \n\t;&|()<>]`, part)
} else := part

# The candidates that hold any of the words without which no rule can fire. Everything else is let by here,
# which is what almost every call costs.
suspects contains text if {
	some candidate in candidates
	text := shell.plain(candidate)
	squeezed := lower(shell.bare(text))
	regex.match(triggers, squeezed)
}

# One expression, because it reads a long text once, where so many words would each read it.
triggers := concat("|", [
	`rm|unlink|remove|delete|del |rd |shred|wipe|erase|truncate|mkfs|mke2fs|dd |/dev/|chmod|chown|chgrp|mv `,
	`find|clean|drop|flush|destroy|terminate|prune|rb |curl|wget|fetch|http|base64|base32|xxd|eval|exec|\\x`,
	`printf|\||parted|fdisk|crypt|zpool|zfs|lvm|format|halt|reboot|shutdown|poweroff|init |crontab|kill|userdel`,
	`rsync|tree|\$|>|:\(|fork|encoded|decode|rimraf|uninstall|badblocks|hdparm|diskutil|cp |tee |sgdisk`,
	`vgremove|srm|blkdiscard|/\?\?\?|\*|purge|mdadm|powershell|pwsh|ri -|iptables|nft |push|sed |ln |tar `,
])

readings contains reading if {
	some text in suspects
	some reading in shell.readings(text)
}

# With the substitutions between backticks as `$(…)`.
readings contains reading if {
	some text in suspects
	contains(text, "`")
	some reading in shell.readings(shell.dollared(text))
}

# What is written into a shell, into `at`, or into a file that is then run.
readings contains script if {
	some text in suspects
	shell.mentions(text, ["echo", "printf"])
	shell.mentions(text, ["|", ">"])
	ran := files_run(text)
	some found in regex.find_all_string_submatch_n(written_pattern, text, -1)
	is_run(found, ran)
	script := strings.replace_n({"\\n": "\n", "\\\"": "\"", "\\$": "$"}, trim(found[1], "'\""))
}

written_pattern := concat("", [
	`\b(?:echo|printf)\s+(?:-\w+\s+)*('[^']*'|"(?:[^"\\]|\\.)*"|[^\s|>&;'"][^|>&;'"]*)\s*`,
	`(?:(\|)\s*(?:sudo\s+)?(?:/\w+)*/?(?:(?:ba|z|da|k|a|fi)?sh|at|batch)\b|>+\s*["']?([^\s;&|"']+))`,
])

is_run(found, _) if found[2] != ""

is_run(found, ran) if trim_prefix(found[3], "./") in ran

# The files that a text runs as scripts.
files_run(text) := {name |
	some found in regex.find_all_string_submatch_n(run_pattern, text, -1)
	name := trim_prefix(concat("", [found[1], found[2]]), "./")
}

run_pattern := concat("", [
	`(?:\b(?:(?:ba|z|da|k|a|fi)?sh|source|python[23]?|perl|ruby|node|php)|(?:^|[;&|(\n]\s*)\.)\s+(?:-\w+\s+)*["']?([\w./~-]+)`,
	`|(?:^|[;&|(\n]\s*|\b(?:sudo|exec|nohup)\s+)["']?((?:\.{0,2}/|~/)[\w./-]+)`,
])
