# Where a deletion reaches: what is the agent's own to delete, and what is not.
package interlock.policies.interlock.shell

import data.interlock.lib.shell

# Deleting this with everything below it is not the agent's business.
precious_tree(target) if {
	trimmed(target) in [
		"", ".", "..", "*", "./*", ".*", "./.*", "**", "*.*", "~", "$HOME", "${HOME}", "$PWD", "${PWD}", "$OLDPWD", "$(pwd)",
		".git", "./.git", "/*", "~/*", "--", "%USERPROFILE%", "$env:USERPROFILE",
	]
}

precious_tree(target) if elsewhere(target)

precious_tree(target) if unknown_variable(target)

precious_tree(target) if {
	steps := split(target, "/")
	".." in steps
}

# A single file that is not the agent's business.
precious_file(target) if trimmed(target) in ["", "*", "./*", "/*", "~", "*.*", ".*"]

precious_file(target) if {
	elsewhere(target)
	not own_file(target)
}

trimmed(target) := trim_right(target, "/") if target != "/"

trimmed("/") := ""

# An absolute path, one in a home directory or on a Windows drive, that is not below a place for scratch work.
elsewhere(target) if {
	absolute(target)
	not scratch(target)
	not regenerable(target)
}

absolute(target) if startswith(target, "/")

absolute(target) if startswith(target, "~")

absolute(target) if startswith(target, "$HOME")

absolute(target) if startswith(target, "${HOME}")

absolute(target) if startswith(target, "$env:")

absolute(target) if startswith(target, "%")

absolute(target) if substring(target, 1, 1) == ":"

scratch(target) if {
	some root in settings.safe_roots
	prefix := concat("", [root, "/"])
	startswith(target, prefix)
	below := trim_left(trim_prefix(target, prefix), "/")
	not below in ["", "*", ".", "./*", "..", ".*"]
	not ".." in split(below, "/")
}

# `/home/me/project/node_modules`: made by a tool, made again by it.
regenerable(target) if {
	steps := split(trim_right(trim_suffix(target, "/*"), "/"), "/")
	count(steps) > 3
	steps[count(steps) - 1] in settings.regenerable
	not ".." in steps
	in_project(target)
}

in_project(target) if {
	some root in settings.project_roots
	startswith(target, concat("", [root, "/"]))
}

own_file(target) if {
	in_project(target)
	steps := split(target, "/")
	count(steps) > 4
	not ".." in steps
	not contains(steps[count(steps) - 1], "*")
}

# A variable that this text does not set, where the deletion would be of whatever it holds.
unknown_variable(target) if {
	startswith(target, "$")
	not scratch(target)
	not startswith(target, "$(pwd)/")
	not settled_somewhere(target)
}

settled_somewhere(target) if {
	some text in suspects
	shell.settled(target, text)
}

# A directory in which relative deletions are not the agent's business either.
foreign_directory(target) if {
	elsewhere(target)
	not project_directory(target)
}

foreign_directory(target) if trimmed(target) in ["", "~", "$HOME", "/"]

project_directory(target) if {
	some root in settings.project_roots
	trimmed(target) == root
	root != "/home"
	root != "/Users"
	root != "/root"
}

project_directory(target) if {
	in_project(target)
	count(split(trim_right(target, "/"), "/")) > 3
}

project_directory(target) if {
	startswith(target, "~/")
	count(trim_right(target, "/")) > 2
}

project_directory(target) if {
	some root in settings.safe_roots
	trimmed(target) == root
}

raw_device(target) if {
	startswith(target, "/dev/")
	not regex.match(`^/dev/(null|zero|full|stdin|stdout|stderr|tty\w*|fd/.*|pts/.*|shm/.+|u?random|tcp/.*|udp/.*)$`, target)
}
