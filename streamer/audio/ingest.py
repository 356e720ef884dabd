"""Check a call's audio messages, place them in time, buffer and decode them.

Time is counted in samples of the call's own rate per channel; lost audio counts as time. Decoder
and speech gate cost as much for a visit as for what they do in it, so messages are buffered as
bytes and decoded together.
"""

from __future__ import annotations

import math
from typing import NoReturn

from streamer.audio.codec import SAMPLE_RATE, Decoder, Encoding, Samples
from streamer.errors import InvalidArgument, LimitExceeded

MAX_GAP_SECONDS = 3600.0
"""A longer gap in the sequence numbers is taken for a mistake of the gateway."""
NEVER = math.inf


class AudioIngest:
    """Audio messages of one call in, samples per channel at 8 kHz out.

    Args:
        encoding: of the bytes.
        sample_rate: of the call, 8000 or 16000 Hz.
        channels: 1 or more, interleaved sample by sample.
        max_chunk_seconds: longest message.

    Attributes:
        sequence: of the last message; None before the first.
        position: samples per channel so far, lost ones included.
        lost: samples per channel that never arrived.
        duplicates: messages that arrived twice.
        buffered_bytes: that are not decoded yet.
        decode_at_bytes: :meth:`accept` decodes when so many are buffered.
        decode_at_position: or when the call is so long.
    """

    def __init__(
        self, encoding: Encoding, sample_rate: int, channels: int, max_chunk_seconds: float
    ) -> None:
        self._decoder = Decoder(encoding, sample_rate, channels)
        self._rate = sample_rate
        self._frame_bytes = self._decoder.frame_bytes
        self._max_seconds = max_chunk_seconds
        self._max_samples = max_chunk_seconds * sample_rate
        self._messages: list[bytes] = []
        self.buffered_bytes = 0
        self.decode_at_bytes = 0
        self.decode_at_position = NEVER
        self.sequence: int | None = None
        self.position = 0
        self.lost = 0
        self.duplicates = 0
        self._replay = False  # audio up to self.sequence may come again after a resume

    def accept(
        self, sequence: int, data: bytes, start_sample: int | None = None
    ) -> tuple[int, int, list[Samples]] | None:
        """Receive one message, see ``Audio`` in the protocol.

        Args:
            sequence: number of the message.
            data: whole samples of every channel.
            start_sample: position of the first sample, if the gateway sends it.

        Returns:
            Samples per channel in the message, samples lost before it, and the buffered audio if it
            is time to decode it; None for a message that was received before.

        Raises:
            InvalidArgument: no whole samples, or not in order; nothing has changed then.
            LimitExceeded: longer than ``max_chunk_seconds``; nothing has changed then.
        """
        samples, part = divmod(len(data), self._frame_bytes)
        if part or not 0 < samples <= self._max_samples:
            self._refuse(len(data))
        if start_sample is None and sequence - 1 == self.sequence:  # as nearly always
            lost = 0
        elif self._is_repeated(sequence):
            return None
        else:
            lost = self._lost_before(sequence, samples, start_sample)
            self.lost += lost
        self.sequence, self._replay = sequence, False
        self.position += lost + samples
        self._messages.append(data)
        self.buffered_bytes += len(data)
        if self.buffered_bytes >= self.decode_at_bytes or self.position >= self.decode_at_position:
            return samples, lost, self.decode()
        return samples, lost, []

    def bytes_of(self, samples: int) -> int:
        """Bytes that so many samples of every channel at 8 kHz take in the call's format."""
        return samples * self._rate // SAMPLE_RATE * self._frame_bytes

    def decode(self) -> list[Samples]:
        """Empty the buffer: int16 at 8 kHz, one array per channel; no arrays if it was empty."""
        if not self._messages:
            return []
        data = b"".join(self._messages)
        self._messages, self.buffered_bytes = [], 0
        return self._decoder.push(data)

    def filters(self) -> tuple[Samples, ...]:
        """Memory of the decoder's filters, see :meth:`streamer.audio.codec.Decoder.snapshot`."""
        return self._decoder.snapshot()

    def restore(
        self,
        sequence: int | None,
        position: int,
        lost: int,
        duplicates: int,
        filters: tuple[Samples, ...],
    ) -> None:
        """Continue a call that another server received; its last messages may come again.

        Raises:
            ValueError: no call of this format can have been in that state.
        """
        if not 0 <= lost <= position or duplicates < 0:
            raise ValueError(f"{position} samples, {lost} of them lost, {duplicates} duplicates")
        self._decoder.restore(filters)
        self.sequence, self._replay = sequence, True
        self.position, self.lost, self.duplicates = position, lost, duplicates

    def _is_repeated(self, sequence: int) -> bool:
        if self.sequence is None or sequence > self.sequence:
            return False
        if self._replay:
            return True
        if sequence == self.sequence:
            self.duplicates += 1
            return True
        return False

    def _lost_before(self, sequence: int, samples: int, start_sample: int | None) -> int:
        gap = 0
        if self.sequence is not None:
            if sequence < self.sequence:
                raise InvalidArgument(
                    "audio.sequence", sequence, f"it must rise; the last was {self.sequence}"
                )
            gap = (sequence - self.sequence - 1) * samples
        if start_sample is not None:
            gap = start_sample - self.position
            if gap < 0:
                raise InvalidArgument(
                    "audio.start_sample", start_sample, f"the call is at sample {self.position}"
                )
        if gap > MAX_GAP_SECONDS * self._rate:
            field = "audio.sequence" if start_sample is None else "audio.start_sample"
            value = sequence if start_sample is None else start_sample
            hours = gap / self._rate / 3600
            raise InvalidArgument(field, value, f"it would leave a gap of {hours:.3g} h")
        return gap

    def _refuse(self, size: int) -> NoReturn:
        if not size:
            raise InvalidArgument("audio.data", "0 bytes", "send at least one sample")
        seconds = size / self._frame_bytes / self._rate
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
