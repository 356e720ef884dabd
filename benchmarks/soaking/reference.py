"""What a call must be told in the end: its audio alone through session and student, no server."""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from streamer.audio.codec import Encoding
from streamer.errors import CallError
from streamer.inference.engine import Engine
from streamer.inference.model import Student
from streamer.inference.registry import ServedModel
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.session import CallConfig, CallSession
from streamer.transport.converters import prediction

TOLERANCE = 1e-5
"""Of a posterior: rows of a batch are alike but for the order of float sums."""
WAIT_SECONDS = 60.0


class _Listener:
    def __init__(self) -> None:
        self.finals: dict[int, Update] = {}

    def updated(self, update: Update) -> None:
        if update.final:
            self.finals[update.channel] = update

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        pass

    def progressed(self) -> None:
        pass

    def failed(self, error: CallError) -> None:
        raise error


class Reference:
    """Answers of one student. A context manager.

    Args:
        model: file of the student; None for the shipped one.
    """

    def __init__(self, model: Path | None = None) -> None:
        self._due: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._engine = Engine(Student(model, provider="cpu"), self._due.put)
        self._served = ServedModel.of(self._engine)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop()

    def finals(
        self, chunks: Sequence[bytes], encoding: Encoding, sample_rate: int, channels: int = 1
    ) -> dict[int, pb.Prediction]:
        """Final prediction by channel of a call of these chunks."""
        listener = _Listener()
        config = CallConfig("reference", encoding, sample_rate, (False,) * channels)
        session = CallSession(config, self._engine, listener)
        for sequence, chunk in enumerate(chunks, start=1):
            session.audio(sequence, chunk)
        session.finish()
        while not session.done:
            self._due.get(timeout=WAIT_SECONDS)()
        session.close()
        return {
            channel: prediction(update, self._served.decider, 0.0).prediction
            for channel, update in listener.finals.items()
        }


def difference(got: pb.Prediction, wanted: pb.Prediction) -> str:
    """What a final prediction has wrong; empty if nothing."""
    for name in ("audio_time", "speech_time", "lost_time"):
        one, other = (getattr(p, name).ToNanoseconds() for p in (got, wanted))
        if one != other:
            return f"{name} {one / 1e9:.3f} s instead of {other / 1e9:.3f} s"
    for name in ("gender", "age_group", "age_band"):
        one, other = getattr(got, name), getattr(wanted, name)
        if (one.label, one.undecided) != (other.label, other.undecided):
            return f"{name} {one.label or 'undecided'} instead of {other.label or 'undecided'}"
        off = float(np.abs(np.subtract(one.posterior, other.posterior)).max())
        if not off <= TOLERANCE:
            return f"{name} is off by {off:.2g}"
    return ""
