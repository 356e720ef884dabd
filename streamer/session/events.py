"""Who is told what comes of a call's messages."""

from __future__ import annotations

from typing import Protocol

from streamer.errors import CallError
from streamer.session.channel import Update


class Listener(Protocol):
    """Who is told what a call brings forth. Called on the thread that feeds the session."""

    def updated(self, update: Update) -> None:
        """A prediction is due."""

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Speech began or ended."""

    def progressed(self) -> None:
        """The backlog shrank."""

    def failed(self, error: CallError) -> None:
        """The call cannot go on."""


class _Nobody:
    """Listens to sessions that are closed."""

    def updated(self, update: Update) -> None:
        """See :class:`Listener`."""

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        """See :class:`Listener`."""

    def progressed(self) -> None:
        """See :class:`Listener`."""

    def failed(self, error: CallError) -> None:
        """See :class:`Listener`."""


NOBODY: Listener = _Nobody()
"""Of sessions that are closed."""
