"""The model server's side: vLLM's wire, the endpoint table, settings, and the processes around it."""
