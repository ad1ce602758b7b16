"""Starting and watching the servers that Interlock may run itself: vLLM, OPA, NeMo Guardrails."""
