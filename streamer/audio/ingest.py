"""Place a call's audio messages in time and buffer their bytes until the channels process them.

Time is counted in samples of the call's own rate per channel; lost audio counts as time.
"""

from __future__ import annotations

from typing import NoReturn

from streamer.audio.codec import SAMPLE_RATE, Decoder, Samples
from streamer.errors import InvalidArgument, LimitExceeded

MAX_GAP_SECONDS = 3600.0
"""A longer hole in the sequence numbers is taken for a mistake of the gateway."""


class Timeline:
    """The messages of one call.

    Args:
        sample_rate: of the call, Hz.

    Attributes:
        sequence: of the last message; None before the first.
        heard: samples up to now, lost ones included.
        lost: samples that never arrived.
        duplicates: messages that came twice.
    """

    def __init__(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.sequence: int | None = None
        self.heard = 0
        self.lost = 0
        self.duplicates = 0
        self._replayed = False  # audio up to self.sequence may come again

    def restore(self, sequence: int | None, heard: int, lost: int, duplicates: int) -> None:
        """Go on as a call that was heard elsewhere; what it heard there may come again.

        Raises:
            ValueError: no call can have been in that state.
        """
        if not 0 <= lost <= heard or duplicates < 0:
            raise ValueError(f"{heard} samples heard, {lost} of them lost, {duplicates} twice")
        self.sequence, self._replayed = sequence, True
        self.heard, self.lost, self.duplicates = heard, lost, duplicates

    def accept(self, sequence: int, length: int, start_sample: int | None) -> int | None:
        """Take note of a message, see ``Audio`` in the protocol.

        Args:
            sequence: its number.
            length: its samples.
            start_sample: where it begins, if it says so.

        Returns:
            Samples lost before it; None if it was heard before.

        Raises:
            InvalidArgument: it does not follow what was heard; nothing has changed then.
        """
        if start_sample is None and sequence - 1 == self.sequence:  # as nearly all are
            self.sequence, self._replayed = sequence, False
            self.heard += length
            return 0
        if self.sequence is not None and sequence <= self.sequence:
            if self._replayed:
                return None
            if sequence == self.sequence:
                self.duplicates += 1
                return None
        lost = self._gap(sequence, length, start_sample)
        self.sequence, self._replayed = sequence, False
        self.heard += lost + length
        self.lost += lost
        return lost

    def _gap(self, sequence: int, length: int, start_sample: int | None) -> int:
        gap = 0
        if self.sequence is not None:
            if sequence < self.sequence:
                raise InvalidArgument(
                    "audio.sequence", sequence, f"it must rise; the last was {self.sequence}"
                )
            gap = (sequence - self.sequence - 1) * length
        if start_sample is not None:
            gap = start_sample - self.heard
            if gap < 0:
                raise InvalidArgument(
                    "audio.start_sample", start_sample, f"the call is at sample {self.heard}"
                )
        if gap > MAX_GAP_SECONDS * self._rate:
            field = "audio.sequence" if start_sample is None else "audio.start_sample"
            value = sequence if start_sample is None else start_sample
            hours = gap / self._rate / 3600
            raise InvalidArgument(field, value, f"it would leave a gap of {hours:.3g} h")
        return gap


class AudioBuffer:
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
