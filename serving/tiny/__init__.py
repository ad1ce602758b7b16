"""The tiny model: a Qwen3 of two million parameters that plays scripted agents.

A real vLLM serves it on a CPU within half a minute, and it gives real reasoning, real parallel tool
calls and real logprobs, so every claim about a guarded agent can be shown without a GPU and without
a download. It knows its scripts by heart and nothing else.

``dialogue`` says what a script is, ``scripts`` holds them, ``harness`` plays the agent's side, and
these three need nothing but the standard library. ``make`` trains the model, ``record`` keeps what
vLLM sent when it served it, and ``serving.player`` plays those recordings where no vLLM runs.
"""
