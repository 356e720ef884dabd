"""The server's signal path without gRPC: sessions, speech gates, engine, student.

Variant ``together``: all calls run side by side, 100 ms of each before the next 100 ms, so that the
engine batches as it does in a server: 48 calls give seven blocks a step. Variant ``alone``: one
call after the other, a block a step. Every call ends with its final prediction.
"""

from __future__ import annotations

import argparse
import queue
from collections.abc import Callable

from neighbours.child import CHUNK, Calls, Hear, serve
from streamer.audio.codec import SAMPLE_RATE, Encoding
from streamer.errors import CallError
from streamer.inference.engine import Engine
from streamer.inference.model import Student
from streamer.session.events import Update
from streamer.session.session import CallConfig, CallSession


class Listener:
    """Counts the predictions of all calls."""

    def __init__(self) -> None:
        self.predictions = 0

    def updated(self, update: Update) -> None:
        """A prediction, running or final."""
        self.predictions += update.posteriors is not None

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Nobody asked for events."""

    def progressed(self) -> None:
        """The loop looks by itself."""

    def failed(self, error: CallError) -> None:
        """A failing call measures nothing."""
        raise error


def hold(
    engine: Engine,
    results: queue.Queue[Callable[[], None]],
    config: CallConfig,
    rows: list[bytes],
    listener: Listener,
) -> None:
    """Calls of one length side by side from beginning to end, in messages of 100 ms.

    Args:
        engine: that delivers to ``results``.
        results: emptied here, as the server's loop does.
        config: of every call.
        rows: encoded audio, a call each.
        listener: told of every prediction.
    """
    sessions = [CallSession(config, engine, listener) for _ in rows]
    chunk = CHUNK * config.sample_rate // SAMPLE_RATE * config.encoding.width

    def settle() -> None:
        engine.hurry()  # as a trunk does: nothing else comes before it is answered
        while any(session.backlog for session in sessions):
            results.get()()

    for number, start in enumerate(range(0, len(rows[0]), chunk), start=1):
        for session, row in zip(sessions, rows, strict=True):
            session.audio(number, row[start : start + chunk])
        settle()
    for session in sessions:
        session.finish()
    settle()
    for session in sessions:
        session.close()


def load(options: argparse.Namespace) -> tuple[str, Hear]:
    """The student on the CPU, and its engine."""
    student = Student(options.model, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put)
    engine.prepared.result()  # its first steps belong to no call
    config = CallConfig("benchmark", Encoding.MULAW, SAMPLE_RATE)

    def run(rows: list[bytes]) -> int:
        listener = Listener()
        hold(engine, results, config, rows, listener)
        return listener.predictions

    def hear(calls: Calls) -> int:
        rows = [call.tobytes() for call in calls]
        return run(rows) if options.variant == "together" else sum(run([row]) for row in rows)

    return student.metadata.model_id, hear


if __name__ == "__main__":
    serve(load)
