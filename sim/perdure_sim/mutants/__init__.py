"""Planted bugs: how we know that the simulator works."""
