"""The PostgreSQL store: tables beside the application's own, for workers on several machines.

Read store.py first. Everything here needs psycopg, which comes with the extra ``postgres``.
"""

from __future__ import annotations
