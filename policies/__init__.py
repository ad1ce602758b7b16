"""Decisions: the input that policies see, the engines that evaluate Rego, and the policy library."""
