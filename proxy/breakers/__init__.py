"""Budgets, loop detectors and the breakers' states: what may stop an agent before a model is asked."""
