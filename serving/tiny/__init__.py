"""The tiny model: a Qwen3 of two million parameters that plays scripted agents.

A real vLLM serves it on a CPU within half a minute, and it gives real reasoning, real parallel tool
calls and real logprobs, so every claim about a guarded agent can be shown without a GPU and without
a download. It knows its scripts by heart and nothing else.

``dialogue`` says what a script is, ``scripts`` holds them, ``harness`` plays the agent's side, and
these three need nothing but the standard library. ``make`` trains the model, ``record`` keeps what
vLLM sent when it served it, and ``serving.player`` plays those recordings where no vLLM runs.

The weights in ``model`` come of 2700 steps in four runs, each going on from the one before
(``--start``). In ordinary contexts they say every turn exactly (1056 of 1056), in odd ones nearly so
(757 of 760): odd are an unrelated task told first, random words as system prompt, as a refusal or
among the tools, and reasoning switched off. A new vocabulary or new scripts need new weights and new
recordings.
"""
