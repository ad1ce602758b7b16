"""Guardrail checks that run beside the traffic and never delay it."""
