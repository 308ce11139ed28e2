"""What a person sees while work goes on."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from rich.console import Console

from rsaseg import console


@pytest.mark.parametrize("terminal", [True, False])
def test_a_word_beside_the_work_is_printed_at_once(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = StringIO()
    messages = Console(file=text, force_terminal=terminal, width=200)
    monkeypatch.setattr(console, "messages", messages)
    with console.show_progress() as progress:
        progress("learn", 1, 3)
        progress("note: look at boris", 0, 0)
        assert "note: look at boris" in text.getvalue()
        progress("learn", 2, 3)
    assert "learn" in text.getvalue()
    assert "0/0" not in text.getvalue()
    assert text.getvalue().count("note: look at boris") == 1


@pytest.mark.parametrize("seconds", [10, 40])
def test_the_time_left_is_told_however_long_a_step_takes(
    seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, now = StringIO(), [0.0]
    messages = Console(file=text, force_terminal=True, width=200, get_time=lambda: now[0])
    monkeypatch.setattr(console, "messages", messages)
    with console.show_progress() as progress:
        for done in range(4):
            progress("exams", done, 100)
            now[0] += seconds
    assert str(timedelta(seconds=97 * seconds)) in text.getvalue()
