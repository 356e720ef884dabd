"""Which streams may become calls: the limits of a server, its load, its end."""

from __future__ import annotations

from dataclasses import dataclass

from streamer.errors import CallError, LimitExceeded, Overloaded
from streamer.operation.load import RETRY_SECONDS, Load


@dataclass(frozen=True)
class Policy:
    """What the service allows; see ``ServerSettings`` for the meaning of each."""

    max_calls: int = 1000
    max_chunk_seconds: float = 10.0
    idle_timeout: float = 300.0
    update_seconds: float = 0.5
    workers: int = 1


class Admission:
    """Decides whether a stream may go on to its config.

    Args:
        policy: limits.
        load: of the server.
    """

    def __init__(self, policy: Policy, load: Load) -> None:
        self._policy = policy
        self._load = load

    def refusal(self, open_streams: int) -> CallError | None:
        """Why one more call cannot be had now, or None.

        Args:
            open_streams: of the server, this one included.
        """
        if open_streams > self._policy.max_calls:
            return LimitExceeded("calls", open_streams, self._policy.max_calls, retry_after=1.0)
        if self._load.full:
            return Overloaded(self._load.full, RETRY_SECONDS)
        return None
