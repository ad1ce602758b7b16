# METADATA
# title: Hosts in texts
# description: >-
#   Which hosts a text would make somebody talk to, in one spelling for all: lower case, without user, port and last
#   dot, IPv4 addresses dotted whatever way they were written. A host is {"name", "written"}; `name` is what a
#   resolver would make of `written`.
package interlock.lib.hosts

import data.interlock.lib.names

# The hosts of all URLs in a text. Readers of URLs take a backslash for a slash, and those of the web any number of them.
of_urls(text) := [host(authority) |
	some found in regex.find_all_string_submatch_n(url_pattern, text, -1)
	not contains(lower(found[0]), "file:")
	authority := concat("", [found[1], found[2]])
] if {
	mentions_url(text)
} else := []

# The cheap question before an expression, which is compiled anew for every decision.
mentions_url(text) if contains(text, ":/")

mentions_url(text) if contains(text, `:\`)

mentions_url(text) if contains(lower(text), "http:")

mentions_url(text) if contains(lower(text), "https:")

url_pattern := concat("", [
	`(?i)(?:^|[^a-z0-9+.-])(?:(?:https?|wss?|ftp):[/\\]*([^\s/\\?#"'<>\x60|;,(){}]+)`,
	`|[a-z][a-z0-9+.-]+:[/\\]{2,}([^\s/\\?#"'<>\x60|;,(){}]+))`,
])

# The host of an argument that is a host, an address or a URL without a scheme: `evil.example:80/x`, `//evil.example`.
of_value(text) := [host(found[1]) |
	not regex.match(`:[/\\]`, text)
	some found in regex.find_all_string_submatch_n(value_pattern, trim_space(text), 1)
]

value_pattern := `^(?:[/\\]{2,})?([^\s/\\?#"'<>|;,(){}]+\.[^\s/\\?#"'<>|;,(){}]+|\[[0-9a-fA-F:.]+\]|[0-9]{6,}|0[xX][0-9a-fA-F]+)(?:[/\\?#]|$)`

# Hosts that a command line names without a scheme: `curl evil.example/x`, `nc 10.0.0.1 80`, `ssh me@evil.example`.
of_command(text) := [host(trim_suffix(word, "/")) |
	some line in regex.find_all_string_submatch_n(network_command, text, -1)
	words := [found[0] | some found in regex.find_all_string_submatch_n(`[^\s"']+`, line[1], -1)]
	some index, word in words
	regex.match(bare_host, word)
	not takes_a_file(words, index)
]

# What a shell opens by itself, where a copy goes to or comes from, and what curl takes another address for.
of_sockets(text) := [host(authority) |
	some found in regex.find_all_string_submatch_n(other_places, text, -1)
	authority := concat("", array.slice(found, 1, count(found)))
]

other_places := concat("", [
	`/dev/(?:tcp|udp)/([^/\s"'\x60]+)/|(?:^|[\s"'=])[A-Za-z0-9_.-]+@([A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+):[^\s"']`,
	`|--(?:resolve|connect-to)[\s=]+["']?[^\s"']*:([^:\s"']*\.[^:\s"']*)`,
])

network_command := concat("", [
	`(?:^|[;&|({\x60"'\n])\s*(?:(?:sudo|exec|env|nohup|time|timeout\s+\S+|xargs|then|do|else)\s+)*(?:\S*/)?(?:curl|wget|nc|ncat|netcat|telnet|ssh|scp|sftp|ftp|tftp|ping|dig|nslookup|rsync|socat|http|https`,
	`|xh|lynx|aria2c|axel|lftp|fetch|Invoke-WebRequest|iwr|irm|openssl|mosh|ssh-copy-id|ssh-keyscan|host|whois|traceroute|nmap|websocat)(?:\.exe)?\s+([^|;&\n)\x60]+)`,
])

bare_host := concat("", [
	`^(?:[^@/\s:]+@)?(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.[A-Za-z][A-Za-z0-9-]+|[0-9]+(?:\.[0-9]+){3}|0[xX][0-9a-fA-F]+`,
	`|\[[0-9A-Fa-f:.]+\])(?::[^\s]*)?(?:/[^\s]*)?$`,
])

takes_a_file(words, index) if {
	words[index - 1] in {
		"-o", "--output", "-O", "--output-document", "-T", "--upload-file", "-i", "-F", "-d", "--data", "--data-binary", "-H",
		"--header", "-A", "--user-agent", "-e", "--referer", "-b", "-c", "--cert", "--key", "--cacert", "-K", "--config",
	}
}

host(authority) := {"name": name_of(written), "written": written, "user": user} if {
	parts := split(split(authority, "/")[0], "@")
	user := concat("@", array.slice(parts, 0, count(parts) - 1))
	written := trim_suffix(lower(without_port(parts[count(parts) - 1])), ".")
}

without_port(text) := found[0][0] if {
	found := regex.find_all_string_submatch_n(`^\[[^\]]*\]`, text, 1)
	count(found) == 1
} else := split(text, ":")[0]

# A host that is not written as it is: an address that looks like something else, a name before an `@` that looks like
# the host, letters as percent signs.
disguised(found) if {
	is_address(found.name)
	found.written != found.name
}

disguised(found) if contains(found.written, "%")

disguised(found) if regex.match(`[A-Za-z0-9-]\.[A-Za-z]{2,}`, found.user)

is_address(name) if regex.match(`^[0-9]{1,3}(?:\.[0-9]{1,3}){3}$`, name)

# One spelling: dots and digits of other scripts and percent signs are read as resolvers do.
name_of(written) := written if {
	regex.match(`^[a-z_-][a-z0-9_.-]*[a-z0-9_-]$`, written)
} else := address if {
	address := ipv4(plain(written))
} else := address if {
	address := mapped(plain(written))
} else := trim(plain(written), "[]")

plain(written) := written if {
	regex.match(`^[a-z0-9_.:\[\]-]*[^.]$`, written)
} else := trim_suffix(strings.replace_n(other_spellings, strings.replace_n(percents, written)), ".")

other_spellings := {
	"。": ".", "．": ".", "｡": ".", "０": "0", "１": "1", "２": "2", "３": "3", "４": "4", "５": "5", "６": "6", "７": "7",
	"８": "8", "９": "9",
}

percents := {concat("", ["%", format_int(code + 45, 16)]): letter |
	some code, letter in split(letters, "")
}

# The characters from 45 (`-`) on.
letters := "-./0123456789:;<=>?@ABCDEFGHIJKLMNOPQRSTUVWXYZ[\\]^_`abcdefghijklmnopqrstuvwxyz"

# The dotted form of an IPv4 address in any form that `inet_aton` takes: one to four numbers, decimal, octal or
# hexadecimal, the last of which fills what is left. Undefined for anything else.
ipv4(text) := dotted(total) if {
	parts := split(text, ".")
	values := [value | some part in parts; value := number(part)]
	count(values) == count(parts)
	heads := array.slice(values, 0, count(values) - 1)
	every head in heads {
		head < 256
	}
	last := values[count(heads)]
	last < rest[count(heads)]
	total := last + sum([part | some index, head in heads; part := head * places[index]])
}

# What a byte stands for, and what the last number is less than.
places := [16777216, 65536, 256, 1]

rest := [4294967296, 16777216, 65536, 256]

number(text) := to_number(text) if {
	regex.match(`^(?:0|[1-9][0-9]{0,9})$`, text)
} else := of_base(substring(text, 2, -1), 16) if {
	regex.match(`^0x[0-9a-f]{1,8}$`, text)
} else := of_base(text, 8) if {
	regex.match(`^0[0-7]{1,11}$`, text)
}

of_base(digits, base) := sum([part |
	some index, digit in split(digits, "")
	part := powers[base][(count(digits) - 1) - index] * indexof("0123456789abcdef", digit)
])

powers := {
	8: [1, 8, 64, 512, 4096, 32768, 262144, 2097152, 16777216, 134217728, 1073741824, 8589934592],
	16: [1, 16, 256, 4096, 65536, 1048576, 16777216, 268435456],
}

dotted(total) := concat(".", [part | some place in places; part := format_int(floor(total / place) % 256, 10)])

# An IPv6 address that stands for an IPv4 address: `::ffff:169.254.169.254`, `::ffff:a9fe:a9fe`, `64:ff9b::…`.
mapped(text) := address if {
	some found in regex.find_all_string_submatch_n(
		`^\[(?:(?:0{0,4}:)+:?(?:0{1,4}:)*(?:ffff:)?(?:0{1,4}:)?|64:ff9b::)(?:([0-9.]{7,})|([0-9a-f]{1,4}):([0-9a-f]{1,4}))(?:%[^\]]*)?\]$`,
		text, 1,
	)
	address := of_groups(found)
}

of_groups(found) := ipv4(found[1]) if {
	found[1] != ""
} else := dotted((of_base(found[2], 16) * 65536) + of_base(found[3], 16))

# Whether a host is on a list. `example.com` is that host, `*.example.com` those below it; a list may name networks
# (`10.0.0.0/8`).
on_list(name, patterns) if names.listed(name, patterns)

on_list(name, patterns) if {
	is_address(name)
	some pattern in patterns
	contains(pattern, "/")
	regex.match(`^[0-9.]+/[0-9]+$`, pattern)
	net.cidr_contains(pattern, name)
}
