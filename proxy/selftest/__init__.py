"""`interlock selftest`: the settings in force, before a model server that says and does what must not pass.

``canaries`` says what is planted and where, ``forms`` how each API is asked and answers, ``wire_*`` writes the answers
as vLLM does, ``upstream`` serves them, ``running`` stands a whole Interlock before it and asks, ``verdicts`` says what
that means, ``report`` shows it.
"""
