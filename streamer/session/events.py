"""Who is told what comes of a call's messages."""

from __future__ import annotations

from typing import Protocol

from streamer.errors import CallError
from streamer.session.channel import Update


class Listener(Protocol):
    """Who is told what a call brings forth. Called on the thread that feeds the session."""

    def on_prediction(self, update: Update) -> None:
        """A prediction is due."""

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Speech began or ended."""

    def on_progress(self) -> None:
        """The backlog shrank."""

    def on_error(self, error: CallError) -> None:
        """The call cannot go on."""


class _Nobody:
    """Listens to sessions that are closed."""

    def on_prediction(self, update: Update) -> None:
        """See :class:`Listener`."""

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """See :class:`Listener`."""

    def on_progress(self) -> None:
        """See :class:`Listener`."""

    def on_error(self, error: CallError) -> None:
        """See :class:`Listener`."""


NOBODY: Listener = _Nobody()
"""Of sessions that are closed."""
