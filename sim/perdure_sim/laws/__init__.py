"""What must hold whatever goes wrong, and who checks it."""
