"""The pure core: what decides, and nothing that acts.

Five words carry it. A *workflow* is an actor: a value. A *message* is the only input of its
transition; a *decision* (new state, writes, effects) the only output. A *command* is what the
user's handler asks for; a *fact* is what is delivered to the handler, one at a time, and the
*journal* is the record of both. Nothing below this folder reads a clock, randomness, a file,
a thread or a logger, or sees a decoded user value.
"""
