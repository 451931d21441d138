"""What can go wrong, and plans of it."""
