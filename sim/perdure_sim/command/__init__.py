"""The command ``perdure-sim``."""
