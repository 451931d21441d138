"""The test kit of perdure: what those who extend it, or build on it, check their code with."""

from __future__ import annotations

from .conformance.check import check_store

__all__ = ["check_store"]
