# METADATA
# title: Text that a reader does not see
# description: >-
#   Characters that show nothing and say something: letters in the Unicode tag block, reversed order, runs without width,
#   letters of another script within a word. In an answer they carry data past whoever reads it; in a tool's arguments
#   they carry orders to the next model, or a name that is not what it looks like. It is asked only while `watch` is true,
#   and holds no text back.
# custom:
#   severity: high
#   tags: [OWASP-LLM01:2025, OWASP-LLM02:2025, OWASP-ASI01, OWASP-ASI09, MITRE-ATLAS-AML.T0068]
#   hold: none
#   patterns: [hidden_unicode]
#   needs: [watch]
package interlock.policies.interlock.hidden_text

output contains found("hidden_in_answer") if hidden

tool_call contains found("hidden_in_arguments") if hidden

hidden if {
	some signal in input.signals
	signal.set == "hidden_unicode"
}

found(id) := {
	"id": id,
	"severity": "high",
	"action": "deny",
	"message": "It contained characters that a reader does not see. Write it in plain letters.",
	"tags": ["OWASP-LLM01:2025", "OWASP-LLM02:2025", "OWASP-ASI01", "OWASP-ASI09", "MITRE-ATLAS-AML.T0068"],
}
