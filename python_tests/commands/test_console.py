"""Messages and progress: stdout stays clean, logs stay readable."""

from __future__ import annotations

import io
import json
import math

import pytest
import rich.console
from rich.console import Console

from sign_ext.commands import console


class Clock:
    """Stands in for `time`: seconds pass when told."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "time", clock)
    return clock


def test_quick_work_leaves_no_line(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress("counting") as report:
        for done in range(11):
            clock.now += 0.1
            report(done, 10)
    assert capsys.readouterr() == ("", "")


def test_long_work_tells_the_time_left_on_stderr(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress("counting") as report:
        for done in range(21):
            report(done, 20)
            clock.now += 2
    captured = capsys.readouterr()
    assert captured.out == ""
    # Two seconds a unit; a line after each fifteen seconds and more: at 8 and 16 units.
    assert captured.err.splitlines() == [
        "counting: 8/20, about 24 s left",
        "counting: 16/20, about 8.0 s left",
    ]


def test_terminal_gets_a_bar_after_two_seconds(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.setattr(
        rich.console,
        "Console",
        lambda **_: Console(file=screen, force_terminal=True, width=100, color_system=None),
    )
    bars = []
    real = console._bar
    monkeypatch.setattr(console, "_bar", lambda terminal: bars.append(real(terminal)) or bars[0])
    with console.progress("counting") as report:
        clock.now += 1
        report(1, 10)
        assert not bars[0].tasks[0].visible
        clock.now += 2
        report(3, 10)
        assert bars[0].tasks[0].visible
        bars[0].refresh()
        assert "3/10" in screen.getvalue()


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json({"rms": math.nan, "Φ": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"rms": None, "Φ": [1, 2]}
