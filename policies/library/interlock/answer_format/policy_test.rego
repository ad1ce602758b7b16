package interlock.policies.interlock.answer_format_test

import data.interlock.policies.interlock.answer_format

nothing := {"json": [], "scripts": [], "most_characters": 0}

of(changes, agent, text, complete) := {finding.id |
	some finding in answer_format.output with input as {
		"identity": {"agent": agent},
		"surface": {"text": text, "complete": complete},
	}
		with data.interlock.answer_format as object.union(nothing, changes)
}

json(text) := of({"json": ["api-*"]}, "api-1", text, true)

test_json_is_let_by if {
	every text in [`{"a": [1, 2.5, null, "x"]}`, " [] \n", `"x"`, "7", "true", ""] {
		json(text) == set()
	}
}

test_anything_else_is_stopped if {
	every text in ["Here you are: {}", "```json\n{}\n```", `{"a": 1} {"b": 2}`, `{"a": 1,}`, "{'a': 1}", "[01]", "NaN", "[1 2]", "{}]"] {
		json(text) == {"not_json"}
	}
}

test_other_agents_may_write_what_they_like if of({"json": ["api-*"]}, "writer", "Hello.", true) == set()

test_a_text_that_goes_on_is_not_judged_yet if of({"json": ["api-*"]}, "api-1", `{"a": `, false) == set()

test_letters_of_the_scripts_are_let_by if {
	every text in ["Grüße, café!", "1 + 1 = 2 → ok 🙂", ""] {
		of({"scripts": ["Latin"]}, "a", text, true) == set()
	}
	of({"scripts": ["Latin", "Cyrillic"]}, "a", "Привет, world", true) == set()
}

test_other_letters_are_stopped if {
	every text in ["Привет", "hello 世界", "pаypal", "مرحبا"] {
		of({"scripts": ["Latin"]}, "a", text, true) == {"foreign_script"}
	}
}

test_a_long_answer_is_stopped if {
	of({"most_characters": 5}, "a", "123456", true) == {"too_long"}
	of({"most_characters": 5}, "a", "äöüß🙂", true) == set()
}

test_without_settings_everything_is_let_by if of({}, "a", "Привет {", true) == set()

test_a_missing_text_is_let_by if {
	{finding.id |
		some finding in answer_format.output with input as {"identity": {"agent": "a"}}
			with data.interlock.answer_format as {"json": ["a"], "scripts": ["Latin"], "most_characters": 1}
	} == set()
}
