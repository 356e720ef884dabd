"""Admit streams as calls within the limits and the load of the server."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

from streamer.call.overload import RETRY_SECONDS, Load
from streamer.errors import FULL_RETRY_SECONDS, CallError, LimitExceeded, Overloaded
from streamer.security.identity import Caller
from streamer.settings import ServerSettings


class Admission:
    """Call slots, in total and per identity.

    Args:
        settings: limits.
        load: of the server.
    """

    def __init__(self, settings: ServerSettings, load: Load) -> None:
        self._settings = settings
        self._load = load
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> dict[str, int]:
        """Slots in use, by identity; no identity without one."""
        return dict(self._held)

    @contextlib.contextmanager
    def acquire(self, caller: Caller) -> Iterator[None]:
        """Hold a slot of the server and of the caller for as long as the context is open.

        Raises:
            LimitExceeded: no slot is free.
            Overloaded: another call would harm the running ones.
        """
        if (refusal := self._refusal(caller)) is not None:
            raise refusal
        self._held[caller.identity] += 1
        try:
            yield
        finally:
            self._held[caller.identity] -= 1
            if not self._held[caller.identity]:
                del self._held[caller.identity]  # addresses come and go for years

    def _refusal(self, caller: Caller) -> CallError | None:
        """Why one more call cannot be admitted now, or None."""
        settings = self._settings
        if (calls := self._held.total() + 1) > settings.max_calls:
            return LimitExceeded(
                "calls", calls, settings.max_calls, FULL_RETRY_SECONDS, reason="calls"
            )
        limit = caller.max_calls or settings.max_calls_per_identity or settings.max_calls
        if (calls := self._held[caller.identity] + 1) > limit:
            return LimitExceeded(
                f"calls of {caller.identity}",
                calls,
                limit,
                FULL_RETRY_SECONDS,
                reason="identity_calls",
            )
        if self._load.full:
            return Overloaded(self._load.full, RETRY_SECONDS)
        return None
