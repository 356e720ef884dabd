"""The server's signal path without gRPC: sessions, speech gates, engine, student.

Variant ``together``: all calls run side by side, 100 ms of each before the next 100 ms, so that the
engine batches as it does in a server: 32 calls give nine blocks a step. Variant ``alone``: one call
after the other, a block a step. Every call ends with its final prediction.
"""

from __future__ import annotations

import argparse
import queue
from collections.abc import Callable

from peers.child import CHUNK, Calls, Hear, serve
from streamer.channel import Update
from streamer.codec import SAMPLE_RATE, Encoding
from streamer.engine import Engine
from streamer.errors import CallError
from streamer.session import CallConfig, CallSession
from streamer.student import Student


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


def load(options: argparse.Namespace) -> tuple[str, Hear]:
    """The student on the CPU, and its engine."""
    student = Student(options.model, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put)

    def run(rows: list[bytes]) -> int:
        listener = Listener()
        config = CallConfig("benchmark", Encoding.MULAW, SAMPLE_RATE)
        sessions = [CallSession(config, engine, listener) for _ in rows]

        def settle() -> None:
            while any(session.backlog for session in sessions):
                results.get()()

        for number, start in enumerate(range(0, len(rows[0]), CHUNK), start=1):
            for session, row in zip(sessions, rows, strict=True):
                session.audio(number, row[start : start + CHUNK])
            settle()
        for session in sessions:
            session.finish()
        settle()
        for session in sessions:
            session.close()
        return listener.predictions

    def hear(calls: Calls) -> int:
        rows = [call.tobytes() for call in calls]
        return run(rows) if options.variant == "together" else sum(run([row]) for row in rows)

    return student.metadata.model_id, hear


if __name__ == "__main__":
    serve(load)
