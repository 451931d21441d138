"""The shell around the core: what reads clocks, runs users' code, and drives the store.

`Worker.turn` is the heart: collect messages, decide, commit, carry out. It is passive; `engine`
calls it from a thread or from an asyncio loop, `runner` runs attempts of actions, `operations`
are what clients and mutations ask for inside a transaction.
"""
