# Code in another language that deletes, or that calls a shell: `python -c`, `perl -e`, `node -e`, a code tool.
package interlock.policies.interlock.shell

import data.interlock.lib.shell

# The pieces between quotes, whichever kind they are, so that quotes within quotes need no untangling.
pieces(text) := split(strings.replace_n({"\\\"": "'", "\"": "'", "`": "'", "\\'": "'"}, text), "'")

deletes_by_code(text) if {
	shell.mentions(text, [
		"rmtree", "os.", "unlink", "Sync", "fs.", "rm_r", "remove_", "rimraf", "FileUtils", "File.", "Dir.", "deltree",
	])
	regex.match(
		concat("", [
			`\brmtree\b|\bos\.(?:remove|unlink|removedirs|rmdir)\b|\.unlink\s*\(|\brm(?:dir)?Sync\b|\bfs(?:\.promises)?\.(?:rm|rmdir|unlink)\b`,
			`|\brm_rf\b|\brm_r\b|\bremove_tree\b|\bremove_dir\w*\b|\brimraf\b|\bFileUtils\b|\bFile\.delete\b|\bDir\.delete\b`,
			`|\bunlink\s|\bunlink\(|\bemptyDirSync\b|\bremoveSync\b|\bdeltree\b`,
		]),
		text,
	)
}

destructive if {
	some text in readings
	deletes_by_code(text)
	some piece in pieces(text)
	precious_literal(piece)
}

destructive if {
	some text in readings
	deletes_by_code(text)
	regex.match(`Path\.home\(\)|expanduser\(|environ\[?\(?'?"?HOME|os\.homedir\(\)|Dir\.home|os\.sep\b|getcwd\(\)\s*\)|process\.cwd\(\)\s*[,)]`, text)
}

# An absolute path of any length, the home or the root; a literal of code is no relative path for sure.
precious_literal(piece) if {
	regex.match(`^(?:/|~|[A-Za-z]:[\\/])\S*$`, piece)
	elsewhere(piece)
	not own_file(piece)
}

precious_literal(piece) if piece in [".", "..", "*", "./", "../", "./*"]

precious_literal(piece) if regex.match(`^\.\./`, piece)

destructive if {
	some text in readings
	contains(text, "fork")
	regex.match(`\bos\.fork\s*\(\)|\bfork\s+while\b`, text)
	regex.match(`\bwhile\b`, text)
}

calls_shell(text) if {
	shell.mentions(text, [
		"os.", "subprocess", "getoutput", "pty.", "exec", "spawn", "child_process", "system", "qx", "popen", "Open3",
		"shell_exec", "passthru", "proc_open", "%x", "Deno.",
	])
	regex.match(
		`\bos\.(?:system|popen|exec\w+|spawn\w+)\b|\bsubprocess\b|\bcommands\.getoutput\b|\bpty\.spawn\b|\bexec(?:Sync|File|FileSync)?\s*[("']|\bspawn(?:Sync)?\s*\(|\bchild_process\b|\bsystem\s*[("'\[{q]|\bqx\b|\bIO\.popen\b|\bOpen3\b|\bshell_exec\b|\bpassthru\b|\bproc_open\b|%x[\[({]|\bos\.execute\b|\bio\.popen\b|\bDeno\.Command\b`,
		text,
	)
}

# Each literal of such code, and all of it without its punctuation, are read as commands too.
readings contains reading if {
	some text in suspects
	calls_shell(text)
	some reading in array.concat(pieces(text), [concat(" ", pieces(strings.replace_n({",": " ", "[": " ", "]": " ", "(": ";"}, text)))])
}
