"""Hypothesis profiles for tests/ and property_tests/ alike; no fixtures.

`repeatable`, the default, draws the same examples each time: a red test is red for everybody.
`search` draws new ones and more of them: `make setup`, then
``.venv/bin/python -m pytest property_tests --hypothesis-profile=search``.
"""

from __future__ import annotations

from hypothesis import settings

# No deadline: the time of a single example says more about the machine than about the code.
settings.register_profile(
    "repeatable", deadline=None, print_blob=True, derandomize=True, database=None
)
settings.register_profile("search", deadline=None, print_blob=True, max_examples=2_000)
settings.load_profile("repeatable")
