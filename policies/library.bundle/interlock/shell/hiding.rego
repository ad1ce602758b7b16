# Commands whose text nobody sees: fetched from the network, decoded, or handed to a shell by another program.
package interlock.policies.interlock.shell

import data.interlock.lib.shell

# A shell, or an interpreter, that takes its script from its input.
reads_script(run) if {
	run.program in settings.shells
	count(script_operands(run.args)) == 0
	not shell.has_option(run.args, ["c"], "--command")
	not "--version" in run.args
}

reads_script(run) if {
	run.program in settings.interpreters
	every arg in run.args {
		arg == "-"
	}
}

# `bash -s -- --yes` still reads its input.
script_operands(args) := [] if "-s" in args

script_operands(args) := [arg |
	some arg in shell.operands(args)
	not arg in ["", "/dev/stdin"]
] if not "-s" in args

runs_remote_script if {
	some run in runs
	reads_script(run)
	some words in run.command.fed_by
	fetches(words)
}

# `curl … | xargs -0 bash -c`.
runs_remote_script if {
	some run in runs
	run.program in settings.shells
	"xargs" in {shell.basename(word) | some word in run.before}
	takes_its_input(run.args)
	some words in run.command.fed_by
	fetches(words)
}

# Fetched into a file that is then run, unseen.
runs_remote_script if {
	some run in runs
	fetches([run.program])
	some file in fetched_files(run)
	some text in readings
	trim_prefix(file, "./") in files_run(text)
}

takes_its_input(args) if count(script_operands(args)) == 0

takes_its_input(args) if "{}" in args

fetched_files(run) := {file |
	some index, word in run.args
	file := named_by(run, index, word)
}

named_by(run, index, word) := run.args[index + 1] if startswith(word, ">")

named_by(run, index, word) := run.args[index + 1] if {
	run.program != "nc"
	regex.match(`^(?:-\w*[oO]|--output|--output-document|-OutFile)$`, word)
	not contains(run.args[index + 1], "://")
}

named_by(run, _, word) := shell.basename(split(word, "?")[0]) if {
	contains(word, "://")
	leaves_a_file(run)
}

leaves_a_file(run) if run.program == "wget"

leaves_a_file(run) if shell.has_option(run.args, ["O"], "--remote-name")

runs_remote_script if {
	some text in readings
	shell.mentions(text, settings.fetchers)
	shell.mentions(text, opens_substitution)
	regex.match(concat("", [script_taker, `(?:curl|wget|fetch|aria2c|lynx|nc)\b`]), text)
}

runs_remote_script if {
	some text in readings
	shell.mentions(lower(text), ["iex", "invoke-expression"])
	regex.match(`(?i)\b(?:iex|invoke-expression)\b.*\b(?:iwr|invoke-webrequest|irm|invoke-restmethod|downloadstring|curl|wget)\b`, text)
}

runs_remote_script if {
	some text in readings
	shell.mentions(lower(text), ["iex", "invoke-expression"])
	regex.match(`(?i)\b(?:iwr|irm|invoke-webrequest|downloadstring)\b.*\|\s*(?:iex|invoke-expression)\b`, text)
}

fetches(words) if {
	some word in words
	lower(shell.basename(word)) in settings.fetchers
}

# What takes a script from a substitution: eval $(…), sh -c "$(…)", bash <(…), . <(…).
script_taker := concat("", [
	`(?:\beval|\b(?:ba|z|da|k|a)?sh(?:\s+-\w+)*|\bsource|(?:^|[;&|\s])\.|\b(?:python[23]?|perl|ruby|node)(?:\s+-\w)?)`,
	`\s+["']?(?:\$\(|\x60|<\()\s*(?:sudo\s+)?`,
])

decoder := concat("", [
	`(?:[^|)\x60]*\|\s*)?(?:base64\s+(?:-\w*[dD]|--decode)|base32\s+(?:-d|--decode)|xxd\s+-\w*r`,
	`|openssl\s+(?:enc|base64)\b|uudecode|rev\b|tr\s|printf\s+["']?\\|gunzip|zcat|gzip\s+-\w*d)`,
])

opens_substitution := ["$(", "`", "<("]

decoders := ["base64", "base32", "xxd", "openssl", "uudecode", "rev", "tr ", "printf", "gunzip", "zcat", "gzip", "echo", "<<<"]

hides_command if {
	some text in readings
	shell.mentions(text, opens_substitution)
	shell.mentions(text, decoders)
	regex.match(concat("", [script_taker, decoder]), text)
}

# A substitution that makes the program's own name.
hides_command if {
	some text in readings
	shell.mentions(text, opens_substitution)
	shell.mentions(text, decoders)
	regex.match(
		`(?:^|[;&|\n({]|\b(?:sudo|exec|then|do|env|xargs)\s)\s*["']?(?:\$\(|\x60)\s*(?:echo|printf|base64|xxd|rev|tr|openssl|cat\s*<<<)\b`,
		text,
	)
}

hides_command if {
	some run in runs
	reads_script(run)
	run.program in settings.shells
	count(run.command.fed_by) > 0
	not fed_plainly(run.command.fed_by)
	every words in run.command.fed_by {
		not fetches(words)
	}
}

hides_command if {
	some run in runs
	reads_script(run)
	run.program in settings.interpreters
	some words in run.command.fed_by
	regex.match(decoder, concat(" ", words))
}

# `cat setup.sh | bash` is a script of the workspace; `echo ls | sh` can be read here.
fed_plainly(feeding) if {
	words := feeding[count(feeding) - 1]
	count(feeding) == 1
	shell.basename(words[0]) in ["cat", "echo", "printf"]
	not contains(concat(" ", words), "\\")
	every target in shell.operands(array.slice(words, 1, count(words))) {
		not startswith(target, "/dev/tcp")
	}
}

# What is echoed into a shell is a script.
destructive if {
	some text in echoed
	some command in shell.commands(text)
	run := run_at(command, first_program(command.words))
	deletes_tree(run)
	some target in shell.operands(run.args)
	precious_tree(target)
}

echoed contains text if {
	some run in runs
	reads_script(run)
	some words in run.command.fed_by
	shell.basename(words[0]) in ["echo", "printf"]
	text := concat(" ", array.slice(words, 1, count(words)))
}

# $'\x72\x6d'
hides_command if {
	some candidate in candidates
	contains(candidate, "$'")
	regex.match(`(?:^|[;&|\n(]\s*|\b(?:sudo|exec|env)\s+)[\w/]*\$'[^']*\\(?:x[0-9a-fA-F]|[0-7]{2,3}|u[0-9a-fA-F])`, candidate)
}

hides_command if {
	some candidate in candidates
	shell.mentions(candidate, ["printf", "echo"])
	regex.match(`\b(?:printf|echo)\s[^|]*\\(?:x[0-9a-fA-F]{2}|0?[0-7]{3})[^|]*\|\s*(?:sudo\s+)?(?:\w*/)*(?:ba|z|da|k|a)?sh\b`, candidate)
}

hides_command if {
	some run in runs
	run.program in ["powershell", "pwsh"]
	some arg in run.args
	encodes(lower(arg))
}

# PowerShell takes any beginning of a parameter's name.
encodes("-ec")

encodes(arg) if {
	substring(arg, 0, 2) in ["-e", "/e"]
	startswith("encodedcommand", substring(arg, 1, -1))
}

# Code that runs what it has decoded.
code_decoders := [
	"b64decode", "b32decode", "a85decode", "fromhex", "unhexlify", "decodestring", "chr", "codecs", "atob", "Buffer",
	"decode_base64", "unpack", "zlib",
]

hides_command if {
	some text in readings
	shell.mentions(text, code_decoders)
	regex.match(`\b(?:exec|eval|system|popen|run|call|check_output|Popen|execSync|compile)\s*\(.*(?:b64decode|b32decode|a85decode|fromhex|unhexlify|decodestring|\bchr\s*\(|codecs\.decode|atob\s*\(|Buffer\.from|decode_base64|unpack\s*\(|zlib\.decompress)`, text)
}
