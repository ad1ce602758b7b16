"""vLLM's dialects as readers and writers without I/O: bytes in, deltas out."""
