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
        self._bytes = 0

    def put(self, data: bytes) -> None:
        """Whole samples of every channel as they come."""
        self._messages.append(data)
        self._bytes += len(data)

    @property
    def waiting(self) -> int:
        """Samples of every channel, at the decoder's rate."""
        return self._bytes // self._decoder.frame_bytes

    def take(self) -> list[Samples]:
        """Everything since the last time: int16 at 8 kHz, one array per channel, none if none came.

        Raises:
            ValueError: what was put are not whole samples.
        """
        if not self._messages:
            return []
        data = b"".join(self._messages)
        self._messages, self._bytes = [], 0
        return self._decoder.push(data)
