"""What stored exchanges say under other policies: `interlock policy replay` and `interlock policy eval`.

``stored`` puts an exchange together from its records, ``judging`` asks policies about it as the live judge would,
``tally`` counts what changes, ``explain`` says which rules fired; the commands and their output stand beside them.
"""
