"""Audio of a call that has come and is not heard yet."""

from __future__ import annotations

from streamer.codec import Decoder, Samples


class Intake:
    """Gathers messages, so that a call is visited once for several of them.

    Decoder and speech gate cost as much for each visit as for what they do in it.

    Args:
        decoder: of the call.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._messages: list[bytes] = []
        self._waiting = 0

    def put(self, data: bytes) -> int:
        """Whole samples of every channel as they come; returns how many bytes wait now."""
        self._messages.append(data)
        self._waiting += len(data)
        return self._waiting

    def take(self) -> list[Samples]:
        """Everything since the last time: int16 at 8 kHz, one array per channel, none if none came.

        Raises:
            ValueError: what was put are not whole samples.
        """
        if not self._messages:
            return []
        data = b"".join(self._messages)
        self._messages, self._waiting = [], 0
        return self._decoder.push(data)
