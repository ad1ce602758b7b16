# From texts to the programs that they run: through wrappers (`sudo -u root …`), shells (`bash -c '…'`),
# substitutions, `find -exec` and code that calls out to a shell.
package interlock.policies.interlock.shell

import data.interlock.lib.shell

known_programs := {name |
	some list in [
		settings.shells, settings.interpreters, settings.script_runners, settings.far_wrappers, settings.fetchers,
		settings.database_clients, settings.disk_tools, settings.power_tools, rule_programs,
	]
	some name in list
}

rule_programs := [
	"rm", "unlink", "rmdir", "find", "fd", "dd", "chmod", "chown", "chgrp", "mv", "cp", "tee", "truncate", "rsync",
	"git", "parted", "fdisk", "cryptsetup", "zpool", "zfs", "mdadm", "badblocks", "hdparm", "diskutil", "crontab",
	"kill", "killall5", "init", "telinit", "systemctl", "userdel", "deluser", "cd", "pushd", "del", "erase", "rd",
	"format", "remove-item", "ri", "clear-disk", "format-volume", "vssadmin", "cipher", "dropdb", "redis-cli",
	"mongo", "mongosh", "mysqladmin", "iptables", "ip6tables", "nft", "ln", "sed", "tar", "install", "terraform", "tofu", "terragrunt", "pulumi", "aws", "gcloud", "az", "gsutil",
	"helm", "doctl", "heroku", "gh", "fly", "flyctl", "oc", "eksctl", "unset", "echo", "printf", "cat", "rimraf", "trash",
]

commands_0 := [command |
	some text in readings
	some command in shell.commands(text)
]

commands_1 := inner_commands(commands_0)

commands_2 := inner_commands(commands_1)

commands_3 := inner_commands(commands_2)

commands := array.concat(array.concat(commands_0, commands_1), array.concat(commands_2, commands_3))

inner_commands(outer) := [command |
	some parent in outer
	some text in array.concat(scripts_of(parent), carried(parent))
	some command in shell.commands(text)
]

# Scripts in an option or a setting of another program: `git -c alias.x='!…'`, `vim -c ':!…'`, `sed '1e …'`.
carried(command) := [text |
	shell.mentions(command.text, ["!", "=", "sed"])
	some word in command.words
	some text in carried_in(word, command)
]

carried_in(word, command) := [found[1] |
	shell.mentions(word, ["!", "="])
	some found in regex.find_all_string_submatch_n(carrier_pattern, word, 1)
] if not sed_script(word, command)

carried_in(word, command) := [found[1] |
	some found in regex.find_all_string_submatch_n(`(?s)^[\d$,/;]*e\s+(.*)$`, word, 1)
] if sed_script(word, command)

carrier_pattern := concat("", [
	`(?is)^(?:alias\.[\w-]+=!|--(?:checkpoint-action=exec|to-command|use-compress-program|rsync-path|rsh)=|:!`,
	`|(?:-o)?ProxyCommand=|core\.(?:pager|editor|sshcommand|fsmonitor)=)(.*)$`,
])

sed_script(word, command) if {
	contains(word, "e ")
	some program in command.words
	shell.basename(program) in ["sed", "gsed"]
}

# The quoted parts of a command that are run as scripts.
scripts_of(command) := [] if {
	count(command.nested) == 0
} else := command.nested if {
	runs_strings(command)
} else := [text |
	some text in command.nested
	shell.mentions(text, ["$(", "`"])
]

runs_strings(command) if {
	some word in command.words
	base := lower(shell.basename(word))
	base in settings.shells
}

runs_strings(command) if {
	some word in array.slice(command.words, 0, 8)
	lower(shell.basename(word)) in settings.script_runners
	word in heads(command.words)
}

runs_strings(command) if contains(command.text, "<<<")

# `env -S "rm -rf /"` splits its string as a shell would.
runs_strings(command) if {
	some index, word in command.words
	shell.basename(word) == "env"
	some option in array.slice(command.words, index + 1, index + 4)
	regex.match(`^-\w*S|^--split`, option)
}

# A program and its arguments, with what is piped into it.
runs := [run |
	some command in commands
	some position in positions(command.words)
	run := run_at(command, position)
]

run_at(command, position) := {
	"program": trim_suffix(lower(shell.basename(command.words[position])), ".exe"),
	"args": array.slice(command.words, position + 1, count(command.words)),
	"before": array.slice(command.words, 0, position),
	"command": command,
}

# Where the programs of a command stand: the first one, and the one that it runs elsewhere.
positions(words) := array.concat([head], [far | far := far_program(words, head)]) if head := first_program(words)

heads(words) := {words[position] | some position in positions(words)}

# The first word that is neither a wrapper, an assignment, an option nor an option's value, or a program that we
# know if one stands before it.
first_program(words) := 0 if {
	known(words[0])
} else := 0 if {
	not skippable(words, 0)
} else := min(stops) if {
	near := array.slice(words, 0, 24)
	standing := {index | some index, _ in near; not skippable(words, index)}
	first := min(standing | {count(near)})
	stops := {index | some index, word in array.slice(near, 0, first); known(word)} | {first | first < count(near)}
	count(stops) > 0
}

known(word) if known_programs[lower(trim_suffix(shell.basename(word), ".exe"))]

known(word) if startswith(shell.basename(word), "mkfs")

skippable(words, index) if wrappers[lower(shell.basename(words[index]))]

wrappers := {name | some name in settings.wrappers}

skippable(words, index) if {
	index > 0
	startswith(words[index], "-")
}

# An assignment before a command, or a number (`timeout 60`).
skippable(words, index) if {
	parts := split(words[index], "=")
	count(parts) > 1
	not shell.mentions(parts[0], ["/", "-", "$"])
}

skippable(words, index) if {
	words[index] != ""
	contains("0123456789", substring(words[index], 0, 1))
}

skippable(words, index) if {
	index > 1
	startswith(words[index - 1], "-")
}

skippable(words, index) if {
	index > 0
	shell.redirects(words[index - 1])
}

# The name of a function or of a coprocess.
skippable(words, index) if {
	index > 0
	words[index - 1] in ["function", "coproc"]
	words[index + 1] == "{"
}

skippable(words, index) if shell.redirects(words[index])

# `ssh host rm …`, `docker exec web rm …`, `find … -exec rm …`: the next program that we know.
far_program(words, head) := min(later) if {
	goes_far(words, head)
	later := {index |
		some index, word in words
		index > head
		index < head + 40
		known(word)
		not basename_is_wrapper_command(words, head, index)
	}
	count(later) > 0
}

goes_far(words, head) if {
	base := lower(trim_suffix(shell.basename(words[head]), ".exe"))
	base in settings.far_wrappers
	not base in ["docker", "podman", "kubectl"]
}

goes_far(words, head) if {
	lower(shell.basename(words[head])) in ["docker", "podman", "kubectl"]
	some word in array.slice(words, head + 1, head + 8)
	word in ["exec", "run"]
}

goes_far(words, head) if {
	lower(shell.basename(words[head])) in ["find", "fd"]
	some word in words
	word in ["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"]
}

# The container's or host's own name is no program, nor what stands before `-exec`.
basename_is_wrapper_command(words, head, index) if {
	lower(shell.basename(words[head])) in ["find", "fd"]
	every before in array.slice(words, head, index) {
		not before in ["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"]
	}
}
