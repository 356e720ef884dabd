"""Audio of a call that has come and is not heard yet."""

from __future__ import annotations

from typing import NoReturn

from streamer.codec import SAMPLE_RATE, Decoder, Samples
from streamer.errors import InvalidArgument, LimitExceeded


class Intake:
    """Gathers messages, so that a call is visited once for several of them.

    Decoder and speech gate cost as much for each visit as for what they do in it.

    Args:
        decoder: of the call.
        max_seconds: longest message.
    """

    def __init__(self, decoder: Decoder, max_seconds: float) -> None:
        self._decoder = decoder
        self._frame_bytes = decoder.frame_bytes
        self._max_seconds = max_seconds
        self._most = max_seconds * decoder.sample_rate
        self._messages: list[bytes] = []
        self._waiting = 0

    def samples(self, data: bytes) -> int:
        """Samples of every channel in a message.

        Raises:
            InvalidArgument: none, or no whole number of them.
            LimitExceeded: too many.
        """
        samples, part = divmod(len(data), self._frame_bytes)
        if part or not 0 < samples <= self._most:
            self._refuse(len(data))
        return samples

    def _refuse(self, size: int) -> NoReturn:
        if not size:
            raise InvalidArgument("audio.data", "0 bytes", "send at least one sample")
        seconds = size / self._frame_bytes / self._decoder.sample_rate
        if seconds > self._max_seconds:
            raise LimitExceeded(
                "audio.data",
                f"{seconds:.3g} s",
                f"{self._max_seconds:g} s a message",
                reason="chunk",
            )
        raise InvalidArgument(
            "audio.data",
            f"{size} bytes",
            f"a sample of every channel takes {self._frame_bytes} bytes",
        )

    def bytes_of(self, samples: int) -> int:
        """What so many samples of a channel at 8 kHz take as they come."""
        return samples * self._decoder.sample_rate // SAMPLE_RATE * self._frame_bytes

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
