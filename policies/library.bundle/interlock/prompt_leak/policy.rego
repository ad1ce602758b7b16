# METADATA
# title: The system prompt in an answer
# description: >-
#   Stops an answer that tells the system prompt or the developer's instructions, or that has a canary in it: put
#   `INTERLOCK-CANARY-` and at least 8 letters or digits of your own into a prompt, and it is found wherever it is said. It
#   knows the words with which prompts are told and begin, not your prompt. It is asked only while `watch` is true, and
#   holds no text back.
# custom:
#   severity: medium
#   tags: [OWASP-LLM07:2025, OWASP-ASI01, MITRE-ATLAS-AML.T0056]
#   hold: none
#   patterns: [prompt_leak/tells_prompt, prompt_leak/begins_like_a_prompt, prompt_leak/canary]
#   needs: [watch]
package interlock.policies.interlock.prompt_leak

output contains {
	"id": "tells_prompt",
	"severity": "medium",
	"action": "deny",
	"message": "It told what its instructions say. Answer the question without them.",
	"tags": ["OWASP-LLM07:2025", "OWASP-ASI01", "MITRE-ATLAS-AML.T0056"],
} if {
	some signal in input.signals
	signal.set == "prompt_leak"
	signal.id in {"tells_prompt", "begins_like_a_prompt", "canary"}
}
