"""Running a script of ``tests/benchmarks`` here, with its arguments."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest


def run(module: ModuleType, given: str) -> None:
    """Run the script's ``main``; no argument may hold a blank."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [module.__name__, *given.split()])
        module.main()
