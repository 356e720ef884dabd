"""Our answer: the server's signal path without gRPC, one call at a time, in messages of 100 ms.

Sessions, speech gate, engine, student and decision are the server's own. The engine waits for
nobody: with one call there is nobody to share a step with, and the answer is the same.
"""

from __future__ import annotations

import argparse
import queue
from collections.abc import Callable

from neighbours.answering import Answer, Said, Sound, serve
from neighbours.ours import Listener, hold
from streamer.inference.decision import Decider
from streamer.inference.engine import Engine
from streamer.inference.metadata import TASKS
from streamer.inference.model import Student
from streamer.session.events import Update
from streamer.session.session import CallConfig

GENDER = TASKS.index("gender")


class _Last(Listener):
    """Keeps the final prediction."""

    def __init__(self) -> None:
        super().__init__()
        self.final: Update | None = None

    def updated(self, update: Update) -> None:
        """A prediction, running or final."""
        self.final = update if update.final else self.final


def load(options: argparse.Namespace) -> tuple[str, Answer]:
    """The student on the CPU, and its engine."""
    student = Student(options.model, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put, gather=0.0)
    engine.prepared.result()  # its first steps belong to no call
    decider = Decider(student.metadata)
    labels = student.metadata.labels.gender

    def answer(sound: Sound) -> Said:
        last = _Last()
        config = CallConfig("benchmark", sound.encoding, sound.rate)
        hold(engine, results, config, [sound.data], last)
        assert last.final is not None
        if last.final.posteriors is None:
            return Said(sure="")
        gender = decider.decide(last.final.posteriors, last.final.speech_seconds)[GENDER]
        return Said(labels[gender.posterior.index(gender.confidence)], sure=gender.label)

    return student.metadata.model_id, answer


if __name__ == "__main__":
    serve(load)
