"""The simulated world: virtual time, processes, their disk, and the actions that run in it."""
