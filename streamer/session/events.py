"""What a session notifies its listener of."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from streamer.errors import CallError
from streamer.inference.batch import Posteriors


class Update(NamedTuple):
    """A running or final prediction of one channel; see ``Prediction`` in the protocol.

    Attributes:
        channel: index in the call.
        sequence: of the last audio message received.
        audio_seconds: length of the call so far, lost audio included.
        speech_seconds: speech that the posteriors rest on.
        lost_seconds: audio that never arrived.
        posteriors: of every task, not calibrated; None before the first block.
        final: the last update of the channel.
        received: when the message arrived that made the update due, on the clock of the session's
            owner; undefined in a final update.
    """

    channel: int
    sequence: int
    audio_seconds: float
    speech_seconds: float
    lost_seconds: float
    posteriors: Posteriors | None
    final: bool
    received: float = 0.0


class Listener(Protocol):
    """Receives the events of one session, on the thread that feeds it."""

    def on_prediction(self, update: Update) -> None:
        """Send a prediction."""

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Speech started or ended, ``audio_seconds`` after the start of the call."""

    def on_progress(self) -> None:
        """The backlog became shorter."""

    def on_error(self, error: CallError) -> None:
        """The call cannot go on."""
