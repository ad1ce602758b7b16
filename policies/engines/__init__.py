"""Engines that evaluate a compiled policy bundle: embedded WebAssembly, or an OPA server."""
