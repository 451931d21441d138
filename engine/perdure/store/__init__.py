"""Where rows are kept: the contract (`base`) and one module per database.

A store keeps rows and decides nothing.
"""
