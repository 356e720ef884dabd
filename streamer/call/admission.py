"""Which streams may become calls: the limits of a server, its load, its end."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from streamer.call.overload import RETRY_SECONDS, Load
from streamer.errors import FULL_RETRY_SECONDS, CallError, LimitExceeded, Overloaded
from streamer.security.identity import Caller


@dataclass(frozen=True)
class Policy:
    """What the service allows; see ``ServerSettings`` for the meaning of each."""

    max_calls: int = 1000
    max_calls_per_identity: int | None = None
    max_chunk_seconds: float = 10.0
    max_call_seconds: float = 14_400.0
    max_lag_seconds: float = 10.0
    config_timeout: float = 10.0
    idle_timeout: float = 300.0
    update_seconds: float = 0.5
    workers: int = 1


class Admission:
    """Decides whether a stream may go on to its config, and counts those that do.

    Args:
        policy: limits.
        load: of the server.
    """

    def __init__(self, policy: Policy, load: Load) -> None:
        self._policy = policy
        self._load = load
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> dict[str, int]:
        """Places that are taken, by identity; no identity without one."""
        return dict(self._held)

    @contextlib.contextmanager
    def acquire(self, caller: Caller) -> Iterator[None]:
        """Hold one of the server's places, and one of the caller's, for as long as this is open.

        Raises:
            LimitExceeded: there is none.
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
        """Why one more call cannot be had now, or None."""
        policy = self._policy
        if (wanted := self._held.total() + 1) > policy.max_calls:
            return LimitExceeded(
                "calls", wanted, policy.max_calls, FULL_RETRY_SECONDS, reason="calls"
            )
        most = caller.max_calls or policy.max_calls_per_identity or policy.max_calls
        if (wanted := self._held[caller.identity] + 1) > most:
            return LimitExceeded(
                f"calls of {caller.identity}",
                wanted,
                most,
                FULL_RETRY_SECONDS,
                reason="identity_calls",
            )
        if self._load.full:
            return Overloaded(self._load.full, RETRY_SECONDS)
        return None
