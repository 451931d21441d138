"""`check_store`: the conformance suite of a store adapter."""
