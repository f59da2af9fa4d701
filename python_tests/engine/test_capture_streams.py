"""A stream belongs to one recorded step for as long as that is alive."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
import torch

from sign_ext.engine import capture_streams
from sign_ext.engine.capture_streams import STREAMS, CaptureStreams, RecordedStep

DEVICE, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)


class Pool:
    """PyTorch's pool: 32 streams a device, lent in turn to everyone who asks."""

    def __init__(self) -> None:
        self.turns = {device: itertools.cycle(range(STREAMS)) for device in (DEVICE, OTHER)}

    def __call__(self, device: torch.device) -> tuple[torch.device, int]:
        return device, next(self.turns[device])


@pytest.fixture
def streams():
    return CaptureStreams(Pool())


def test_steps_that_are_alive_share_none(streams):
    taken = [streams.take(DEVICE) for _ in range(STREAMS)]
    assert len({each.stream for each in taken}) == STREAMS
    assert not any(each.is_shared for each in taken)
    assert streams.take(OTHER).stream[0] == OTHER


def test_others_that_take_from_the_pool_change_nothing():
    pool = Pool()
    streams = CaptureStreams(pool)
    taken = []
    for others in (0, 31, 5, 31, 31, 7):
        for _ in range(others):  # the pool may come round to one that a step has
            pool(DEVICE)
        taken.append(streams.take(DEVICE))
    assert len({each.stream for each in taken}) == len(taken)


def test_a_stream_that_was_given_back_is_taken_again(streams):
    """Each stream keeps cuBLAS memory, so no more are used than steps were alive at once."""
    first, second = streams.take(DEVICE), streams.take(DEVICE)
    for _ in range(100):
        streams.give_back(first)
        first = streams.take(DEVICE)
        assert first.stream != second.stream
    assert first.stream[1] == 0


def test_beyond_the_pool_they_are_shared_evenly(streams):
    taken = [streams.take(DEVICE) for _ in range(2 * STREAMS)]
    assert all(each.steps == 2 for each in taken)
    streams.give_back(taken[5])
    assert streams.take(DEVICE) is taken[5]


def test_a_broken_stream_is_not_taken_again(streams):
    broken = streams.take(DEVICE)
    broken.broken = True
    streams.give_back(broken)
    taken = [streams.take(DEVICE) for _ in range(STREAMS)]
    assert broken.stream not in {each.stream for each in taken}
    for each in taken:
        each.broken = True
    assert streams.take(DEVICE).steps == 1  # none is left: a broken one is used


class Graph:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def replay(self):
        self.log.append(f"replay {self.name}")


def test_replays_that_share_a_stream_wait_for_each_other(streams, monkeypatch):
    log = []
    current = SimpleNamespace(
        wait_event=lambda event: log.append(f"wait for {event}"),
        record_event=lambda: log.append("record") or f"event {len(log)}",
    )
    monkeypatch.setattr(capture_streams.torch.cuda, "current_stream", lambda device: current)
    on = streams.take(DEVICE)
    on.stream = SimpleNamespace(device=DEVICE)
    first = RecordedStep(Graph(log, "first"), on, streams)
    first()
    assert log == ["replay first"]  # no other step: no events
    on.steps += 1
    second = RecordedStep(Graph(log, "second"), on, streams)
    log.clear()
    first()
    second()
    assert log == ["replay first", "record", "wait for event 2", "replay second", "record"]
    del second
    log.clear()
    first()
    assert log == ["replay first"]


def test_dropping_a_step_drops_its_graph_before_it_gives_the_stream_back(streams):
    on = streams.take(DEVICE)
    seen = []

    class Watched(Graph):
        def __del__(self):
            seen.append(on.steps)

    step = RecordedStep(Watched([], "it"), on, streams)
    assert on.steps == 1
    del step
    assert seen == [1]
    assert on.steps == 0
