"""Fixtures of the core's tests."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture
def no_noise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test also checks that nothing is printed or warned about, collector included."""
    noise: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", noise.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        gc.collect()
    assert noise == []
