"""Our answer: the server's signal path without gRPC, in messages of 100 ms.

Sessions, speech gate, engine, model and decision are the server's own. With ``--variant together``
the calls run side by side, 100 ms of each before the next 100 ms, so that the engine batches as in
a server: 48 calls give seven blocks a step. Otherwise they run one after the other.
"""

from __future__ import annotations

import argparse
import queue
from collections.abc import Callable, Sequence

from peers.child import Answer, Process, Sound

from streamer.errors import CallError
from streamer.inference.decision import Decider
from streamer.inference.engine import Engine
from streamer.inference.metadata import TASKS
from streamer.inference.model import OnnxModel
from streamer.session.events import Update
from streamer.session.session import CallConfig, CallSession

GENDER = TASKS.index("gender")
MESSAGES_PER_SECOND = 10


class _Listener:
    """Counts the predictions of a call and keeps the final one."""

    def __init__(self) -> None:
        self.predictions = 0
        self.final: Update | None = None

    def on_prediction(self, update: Update) -> None:
        """Record a prediction, running or final."""
        self.predictions += update.posteriors is not None
        self.final = update if update.final else self.final

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Ignore the begin and the end of speech."""

    def on_progress(self) -> None:
        """Ignore progress: the loop checks the backlog itself."""

    def on_error(self, error: CallError) -> None:
        """Raise the error: a failing call measures nothing."""
        raise error


def _run(
    engine: Engine, results: queue.Queue[Callable[[], None]], sounds: Sequence[Sound]
) -> list[_Listener]:
    """Run calls of equal length side by side from beginning to end."""
    first = sounds[0]
    config = CallConfig("benchmark", first.encoding, first.rate)
    listeners = [_Listener() for _ in sounds]
    sessions = [CallSession(config, engine, listener) for listener in listeners]
    chunk = first.rate // MESSAGES_PER_SECOND * first.encoding.width

    def settle() -> None:
        engine.flush()  # as a trunk does: nothing else arrives before the answer
        while any(session.backlog.blocks for session in sessions):
            results.get()()

    for number, start in enumerate(range(0, len(first.data), chunk), start=1):
        for session, sound in zip(sessions, sounds, strict=True):
            session.audio(number, sound.data[start : start + chunk])
        settle()
    for session in sessions:
        session.finish()
    settle()
    for session in sessions:
        session.close()
    return listeners


def load(options: argparse.Namespace) -> tuple[str, Process]:
    """Load the model on the CPU, and its engine."""
    student = OnnxModel(options.model, provider="cpu")
    results: queue.Queue[Callable[[], None]] = queue.Queue()
    engine = Engine(student, results.put)
    engine.prepared.result()  # its first steps belong to no call
    decider = Decider(student.metadata)
    labels = student.metadata.labels.gender

    def answer(listener: _Listener) -> Answer:
        assert listener.final is not None
        if listener.final.posteriors is None:
            return Answer(decided="", predictions=listener.predictions)
        final = listener.final
        gender = decider.decide(final.posteriors, final.speech_seconds)[GENDER]
        likeliest = labels[gender.posterior.index(gender.confidence)]
        return Answer(likeliest, decided=gender.label, predictions=listener.predictions)

    def process(sounds: Sequence[Sound]) -> list[Answer]:
        batches = [list(sounds)] if options.variant == "together" else [[s] for s in sounds]
        return [answer(found) for batch in batches for found in _run(engine, results, batch)]

    return student.metadata.model_id, process
