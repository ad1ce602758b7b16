# METADATA
# title: Form and language of answers
# description: >-
#   What an answer must look like where a program or a reader depends on it. `json` names the agents whose answers must
#   be JSON and nothing else; `scripts` the scripts that letters may be of (`Latin`, `Cyrillic`, `Han` …), so that an
#   answer is in a language that its reader knows; `most_characters` how long it may be. An answer that only calls tools
#   has no text to judge. The whole answer waits for its end while this is enforced.
# custom:
#   severity: low
#   tags: [OWASP-LLM05:2025, OWASP-ASI08, MITRE-ATLAS-AML.T0067]
#   hold: all
#   needs: [json, scripts, most_characters]
package interlock.policies.interlock.answer_format

import data.interlock.lib.names
import data.interlock.lib.values

settings := data.interlock.answer_format

tags := ["OWASP-LLM05:2025", "OWASP-ASI08", "MITRE-ATLAS-AML.T0067"]

output contains finding if {
	names.listed(input.identity.agent, settings.json)
	input.surface.complete
	trim_space(input.surface.text) != ""
	not is_json(input.surface.text)
	finding := {
		"id": "not_json",
		"severity": "medium",
		"action": "deny",
		"message": "The answer must be one JSON value and nothing else: no words before or after it, no code fence.",
		"tags": tags,
	}
}

output contains finding if {
	count(settings.scripts) > 0
	regex.match(foreign_letter, input.surface.text)
	finding := {
		"id": "foreign_script",
		"severity": "low",
		"action": "deny",
		"message": "The answer is written in letters that its reader does not use. Answer in the reader's language.",
		"tags": tags,
	}
}

output contains finding if {
	settings.most_characters > 0
	count(input.surface.text) > settings.most_characters
	finding := {
		"id": "too_long",
		"severity": "low",
		"action": "deny",
		"message": "The answer is too long. Say the same in fewer words, or write it to a file.",
		"tags": tags,
	}
}

is_json(text) if _ = values.from_json(text)

# A letter of no script that is listed: every script's letters but those.
foreign_letter := concat("", ["[^\\PL", concat("", [class |
	some script in settings.scripts
	regex.match(`^[A-Z][A-Za-z_]{2,30}$`, script)
	class := concat("", ["\\p{", script, "}"])
]), "]"])
