"""Stores for simulations: the model store on dicts, and SQLite in memory."""
