# What a program does with its arguments.
package interlock.policies.interlock.shell

import data.interlock.lib.shell
import data.interlock.lib.values

# Deleting trees and files.

deletes_tree(run) if {
	run.program == "rm"
	shell.has_option(run.args, ["r", "R"], "--recursive")
}

deletes_tree(run) if {
	run.program in ["remove-item", "ri", "rd", "rmdir", "del", "erase"]
	some arg in run.args
	regex.match(`(?i)^(?:-r(?:e(?:c(?:u(?:r(?:s(?:e)?)?)?)?)?)?|/s)$`, arg)
}

deletes_tree(run) if run.program == "rimraf"

deletes_file(run) if run.program in ["rm", "unlink", "del", "erase", "remove-item", "ri"]

# `$X -rf /`, `/b??/rm -rf /`: whatever that is, it is spelt to hide.
deletes_tree(run) if {
	shell.mentions(run.program, ["$", "?", "*", "["])
	shell.has_option(run.args, ["r", "R"], "--recursive")
	shell.has_option(run.args, ["f"], "--force")
}

destructive if {
	some run in runs
	deletes_tree(run)
	some target in targets_of(run)
	precious_tree(target)
}

destructive if {
	some run in runs
	deletes_file(run)
	some target in targets_of(run)
	precious_file(target)
}

# In `rd /s /q build`, `/s` and `/q` are options.
targets_of(run) := [target |
	some target in shell.operands(run.args)
	not slash_option(run.program, target)
]

slash_option(program, target) if {
	program in ["rd", "rmdir", "del", "erase"]
	regex.match(`^/[A-Za-z]$`, target)
}

# Relative deletions after a change to a directory elsewhere.
destructive if {
	some move in runs
	move.program in ["cd", "pushd"]
	some directory in moved_to(move)
	foreign_directory(directory)
	some run in runs
	sweeping(run)
}

moved_to(move) := shell.operands(move.args) if count(shell.operands(move.args)) > 0

moved_to(move) := ["~"] if count(shell.operands(move.args)) == 0

sweeping(run) if deletes_tree(run)

sweeping(run) if find_deletes(run)

sweeping(run) if git_cleans(run)

# find … -delete, find … -exec rm.

find_deletes(run) if {
	run.program == "find"
	"-delete" in run.args
}

find_deletes(run) if {
	run.program in ["find", "fd"]
	some index, arg in run.args
	arg in ["-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec", "--exec-batch"]
	some deleter in array.slice(run.args, index + 1, count(run.args))
	shell.basename(deleter) in ["rm", "shred", "unlink", "srm", "truncate", "dd"]
}

find_deletes(run) if {
	run.program == "find"
	some index, arg in run.args
	arg in ["-exec", "-execdir", "-ok", "-okdir"]
	regex.match(`\brm\b|\bunlink\b`, concat(" ", array.slice(run.args, index + 1, count(run.args))))
}

destructive if {
	some run in runs
	find_deletes(run)
	run.program == "find"
	reaches_too_far(run.args)
}

# fd takes a pattern, then the places to look in.
destructive if {
	some run in runs
	find_deletes(run)
	run.program == "fd"
	asked := before_exec(run.args)
	fd_reaches_too_far(asked)
}

before_exec(args) := array.slice(args, 0, min([index |
	some index, arg in args
	arg in ["-x", "-X", "--exec", "--exec-batch"]
]))

fd_reaches_too_far(asked) if {
	some place in shell.operands(asked)
	foreign_root(place)
}

fd_reaches_too_far(asked) if {
	every arg in asked {
		arg in [".", "", "*", "-H", "-I", "-u", "-HI", "-uu"]
	}
}

reaches_too_far(args) if {
	some root in find_roots(args)
	foreign_root(root)
}

reaches_too_far(args) if {
	not narrowed(args)
	some root in find_roots(args)
	precious_tree(root)
}

reaches_too_far(args) if {
	not narrowed(args)
	count(find_roots(args)) == 0
}

foreign_root(root) if {
	elsewhere(root)
	not project_directory(root)
}

foreign_root(root) if unknown_variable(root)

foreign_root(root) if ".." in split(root, "/")

find_roots(args) := [arg |
	some index, arg in args
	not arg in ["-H", "-L", "-P"]
	every before in array.slice(args, 0, index + 1) {
		not expression_begins(before)
	}
]

expression_begins(arg) if {
	substring(arg, 0, 1) in ["-", "(", "!"]
	not arg in ["-H", "-L", "-P"]
}

narrowed(args) if {
	some index, arg in args
	arg in ["-name", "-iname", "-path", "-ipath", "-wholename", "-regex", "-iregex"]
	not args[index + 1] in ["*", "**", ".*", "*.*", "./*"]
}

narrowed(args) if "-empty" in args

# … | xargs rm.

destructive if {
	some run in runs
	deletes_file(run)
	some wrapper in run.before
	shell.basename(wrapper) in ["xargs", "parallel"]
	fed_too_much(run)
}

fed_too_much(run) if {
	some words in run.command.fed_by
	shell.basename(words[0]) == "find"
	reaches_too_far(array.slice(words, 1, count(words)))
}

fed_too_much(run) if {
	some words in run.command.fed_by
	shell.basename(words[0]) != "find"
	some target in shell.operands(array.slice(words, 1, count(words)))
	precious_tree(target)
	target != "."
}

fed_too_much(run) if {
	deletes_tree(run)
	every words in run.command.fed_by {
		not shell.basename(words[0]) in ["find", "fd", "git", "grep", "egrep", "rg"]
	}
}

# Disks and devices.

destructive if {
	some run in runs
	startswith(run.program, "mkfs")
}

destructive if {
	some run in runs
	run.program in settings.disk_tools
	count(shell.operands(run.args)) > 0
}

destructive if {
	some run in runs
	some program, verbs in {
		"parted": ["mklabel", "mktable", "rm"], "cryptsetup": ["luksFormat", "erase", "luksErase"],
		"zpool": ["destroy", "labelclear"], "zfs": ["destroy"], "mdadm": ["--zero-superblock"],
		"hdparm": ["--security-erase", "--trim-sector-ranges"], "badblocks": ["-w", "-wsv", "-wvs"],
		"diskutil": ["eraseDisk", "eraseVolume", "zeroDisk", "secureErase", "partitionDisk"],
		"vssadmin": ["delete"], "crontab": ["-r"], "kill": ["-1"],
	}
	run.program == program
	some arg in run.args
	arg in verbs
	not kills_politely(run)
}

# `kill -1 4711` sends SIGHUP to one process; `kill -9 -1` ends them all.
kills_politely(run) if {
	run.program == "kill"
	run.args[0] == "-1"
	count(run.args) > 1
}

destructive if {
	some run in runs
	run.program == "fdisk"
	some target in shell.operands(run.args)
	raw_device(target)
	not "-l" in run.args
}

destructive if {
	some run in runs
	run.program in ["clear-disk", "format-volume", "killall5"]
}

destructive if {
	some run in runs
	run.program == "format"
	some target in run.args
	regex.match(`^[A-Za-z]:`, target)
}

destructive if {
	some run in runs
	run.program == "dd"
	some arg in run.args
	startswith(arg, "of=")
	overwritten := trim_prefix(arg, "of=")
	not_to_overwrite(overwritten)
}

destructive if {
	some run in runs
	run.program in ["cp", "tee", "mv", "truncate"]
	some target in shell.operands(run.args)
	raw_device(target)
}

destructive if {
	some command in commands
	some index, word in command.words
	startswith(word, ">")
	target := command.words[index + 1]
	not_to_overwrite(target)
	not appended(word, target)
}

not_to_overwrite(target) if raw_device(target)

not_to_overwrite(target) if {
	some name in settings.protected_files
	startswith(target, name)
}

appended(word, target) if {
	word == ">>"
	not raw_device(target)
}

destructive if {
	some run in runs
	run.program == "truncate"
	shell.has_option(run.args, ["s"], "--size")
	some target in shell.operands(run.args)
	precious_file(target)
}

# Files without which nobody logs in or the machine does not start.
destructive if {
	some run in runs
	run.program in ["cp", "mv", "ln", "install"]
	targets := shell.operands(run.args)
	essential(targets[count(targets) - 1])
}

destructive if {
	some run in runs
	run.program == "tee"
	not shell.has_option(run.args, ["a"], "--append")
	some target in shell.operands(run.args)
	not_to_overwrite(target)
}

destructive if {
	some run in runs
	run.program == "sed"
	shell.has_option(run.args, ["i"], "--in-place")
	some target in shell.operands(run.args)
	essential(target)
}

essential(target) if trim_right(target, "/") in settings.essential_files

# `tar --remove-files -cf /dev/null /home`.
destructive if {
	some run in runs
	run.program == "tar"
	"--remove-files" in run.args
	some index, target in run.args
	not startswith(target, "-")
	not regex.match(`^-\w*f$`, concat("", ["-", array.concat([""], run.args)[index]]))
	not regex.match(`^-{1,2}(?:\w*f|file)$`, array.concat([""], run.args)[index])
	precious_tree(target)
}

destructive if {
	some run in runs
	run.program == "cp"
	targets := shell.operands(run.args)
	targets[0] == "/dev/null"
	precious_file(targets[count(targets) - 1])
}

# Rights, moves, copies over.

destructive if {
	some run in runs
	run.program in ["chmod", "chown", "chgrp"]
	shell.has_option(run.args, ["R"], "--recursive")
	targets := shell.operands(run.args)
	some target in array.slice(targets, 1, count(targets))
	foreign_directory(target)
}

destructive if {
	some run in runs
	run.program in ["chmod", "chown", "chgrp"]
	targets := shell.operands(run.args)
	some target in array.slice(targets, 1, count(targets))
	trimmed(target) in ["", "/*", "~", "/etc", "/usr", "/bin"]
}

destructive if {
	some run in runs
	run.program == "mv"
	targets := shell.operands(run.args)
	targets[count(targets) - 1] == "/dev/null"
}

destructive if {
	some run in runs
	run.program == "mv"
	targets := shell.operands(run.args)
	some source in array.slice(targets, 0, count(targets) - 1)
	foreign_directory(source)
	count(split(trimmed(source), "/")) < 4
}

destructive if {
	some run in runs
	run.program == "rsync"
	some arg in run.args
	startswith(arg, "--delete")
	targets := shell.operands(run.args)
	target := targets[count(targets) - 1]
	foreign_directory(target)
}

# What others have pushed to a branch that all build upon.
destructive if {
	some run in runs
	run.program == "git"
	"push" in run.args
	some target in shell.operands(run.args)
	steps := split(target, ":")
	trim_prefix(trim_left(steps[count(steps) - 1], "+"), "refs/heads/") in settings.protected_branches
	rewrites(run.args, target)
}

rewrites(args, _) if shell.has_option(args, ["f"], "--force")

rewrites(args, _) if shell.has_option(args, ["d"], "--delete")

rewrites(_, target) if substring(target, 0, 1) in ["+", ":"]

# git clean where it is not the agent's repository.

git_cleans(run) if {
	run.program == "git"
	"clean" in run.args
	shell.has_option(run.args, ["f"], "--force")
}

destructive if {
	some run in runs
	git_cleans(run)
	some index, arg in run.args
	arg in ["-C", "--git-dir", "--work-tree"]
	foreign_directory(run.args[index + 1])
}

destructive if {
	some run in runs
	git_cleans(run)
	some target in shell.operands(run.args)
	precious_tree(target)
}

# The machine itself.

destructive if {
	some run in runs
	run.program in settings.power_tools
	every arg in run.args {
		not arg in ["--help", "--version"]
	}
}

destructive if {
	some run in runs
	run.program in ["iptables", "ip6tables"]
	some arg in run.args
	arg in ["-F", "--flush", "-X"]
}

destructive if {
	some run in runs
	run.program == "nft"
	array.slice(run.args, 0, 2) == ["flush", "ruleset"]
}

destructive if {
	some run in runs
	run.program in ["init", "telinit"]
	run.args[0] in ["0", "6"]
}

destructive if {
	some run in runs
	run.program == "systemctl"
	some arg in run.args
	arg in ["halt", "poweroff", "reboot", "kexec", "rescue", "emergency"]
}

destructive if {
	some run in runs
	run.program in ["userdel", "deluser"]
	shell.has_option(run.args, ["r"], "--remove")
}

# A function that calls itself twice in the background.
destructive if {
	some text in readings
	dense := strings.replace_n({" ": "", "\n": "", ";}": "}", "function": ""}, text)
	contains(dense, "(){")
	found := regex.find_all_string_submatch_n(`([\w:.]+)\(\)\{([\w:.]+)\|([\w:.]+)&\}`, dense, -1)
	some one in found
	one[1] == one[2]
	one[2] == one[3]
}

# Databases.

destroys_database if {
	some run in runs
	run.program in settings.database_clients
	not scratch_database(run)
	some text in array.concat(run.args, [concat(" ", run.args), concat(" ", [word | some words in run.command.fed_by; some word in words])])
	drops(text)
}

destroys_database if {
	some text in readings
	contains(text, "<<")
	some run in runs
	run.program in settings.database_clients
	drops(text)
}

# A tool that takes SQL itself.
destroys_database if {
	complete
	some word in tool_words
	word in settings.sql_tool_words
	every other in tool_words {
		not other in settings.not_sql_tool_words
	}
	some text in values.under(input.call.arguments, {name | some name in settings.sql_argument_names})
	drops(text)
}

# A database in memory, or a file that is named as one for tests.
scratch_database(run) if {
	run.program in ["sqlite", "sqlite3", "duckdb"]
	file := shell.operands(run.args)[0]
	regex.match(`^:memory:$|^(?:[\w.-]+/)*(?:test|tmp|temp|scratch)[\w.-]*$|^/tmp/[\w.-]+$`, file)
	not ".." in split(file, "/")
}

drops(text) if {
	shell.mentions(lower(text), ["drop", "truncate", "delete"])
	regex.match(
		`(?is)\bdrop(?:\s|/\*.*?\*/)+(?:table|database|schema|owned|keyspace|collection)\b|\btruncate(?:\s|/\*.*?\*/)+(?:table\s+)?[\w."\x60]+|\bdelete(?:\s|/\*.*?\*/)+from(?:\s|/\*.*?\*/)+[\w."\x60\[\]]+\s*(?:;|$|where\s+(?:1\s*=\s*1|true)\b)`,
		text,
	)
}

destroys_database if {
	some run in runs
	run.program == "dropdb"
	count(shell.operands(run.args)) > 0
}

destroys_database if {
	some run in runs
	run.program == "redis-cli"
	some arg in array.concat(run.args, [word | some words in run.command.fed_by; some word in words])
	regex.match(`(?i)\b(?:flushall|flushdb)\b`, arg)
}

destroys_database if {
	some run in runs
	run.program == "mysqladmin"
	"drop" in run.args
}

destroys_database if {
	some run in runs
	run.program in ["mongo", "mongosh"]
	some arg in run.args
	regex.match(`dropDatabase|\.drop\(|deleteMany\(\s*\{\s*\}`, arg)
}

# Infrastructure.

destroys_infrastructure if {
	some run in runs
	run.program in ["kubectl", "oc"]
	"delete" in run.args
	some arg in run.args
	regex.match(
		`^(?:--all|--all=true|-A|--all-namespaces|ns|namespaces?|nodes?|pv|pvc|persistentvolume\w*|crds?|customresourcedefinition\w*|clusterrole\w*)(?:/.*)?$`,
		arg,
	)
}

destroys_infrastructure if {
	some run in runs
	run.program in ["terraform", "tofu", "terragrunt", "pulumi"]
	some arg in run.args
	arg in ["destroy", "-destroy", "--destroy", "run-all-destroy"]
	not run.args[0] in ["plan"]
}

destroys_infrastructure if {
	some run in runs
	run.program == "aws"
	some arg in run.args
	regex.match(`^(?:delete-|terminate-|deregister-|schedule-key-deletion|rb$)`, arg)
}

destroys_infrastructure if {
	some run in runs
	run.program == "aws"
	"s3" in run.args
	"rm" in run.args
	"--recursive" in run.args
}

destroys_infrastructure if {
	some run in runs
	run.program in ["gcloud", "az", "doctl", "eksctl", "gh", "fly", "flyctl", "heroku"]
	some arg in array.slice(run.args, 0, 6)
	regex.match(`^(?:delete|purge|destroy|apps:destroy|rm-all)$`, arg)
}

destroys_infrastructure if {
	some run in runs
	run.program == "gsutil"
	some arg in run.args
	arg in ["rb"]
}

destroys_infrastructure if {
	some run in runs
	run.program == "gsutil"
	"rm" in run.args
	shell.has_option(run.args, ["r", "R"], "--recursive")
}

destroys_infrastructure if {
	some run in runs
	run.program in ["docker", "podman"]
	"prune" in run.args
	some arg in run.args
	arg in ["--volumes", "volume"]
}

destroys_infrastructure if {
	some run in runs
	run.program == "vagrant"
	"destroy" in run.args
}

destroys_infrastructure if {
	some run in runs
	run.program == "helm"
	some arg in run.args
	arg in ["uninstall", "delete"]
	"--all" in run.args
}
