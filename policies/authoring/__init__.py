"""Writing policies: build, check and test. Needs an ``opa`` binary, which running Interlock does not."""
