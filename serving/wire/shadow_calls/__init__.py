"""Shadow calls: tool-call syntax of any model family that is left in plain text, read as the calls that a harness may
still execute. ``reader.ShadowReader`` is the way in."""
