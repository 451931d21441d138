"""Many runs of a scenario: census, sweep, random soak, over one process or more."""
