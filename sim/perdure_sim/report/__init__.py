"""A failed run, told to people."""
