"""Requests of a resumable call since the last checkpoint, for replay on the next stream."""

from __future__ import annotations

from collections import deque
from itertools import islice

from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest


class ReplayBuffer:
    """Requests in order: those sent on the current stream, then the unsent ones.

    Memory is bounded by ``max_audio_bytes`` and one message if callers wait while :attr:`full`:
    a checkpoint frees its audio, and of equal controls without audio in between one is kept.

    Args:
        max_audio_bytes: bytes of audio at which the buffer is full.
    """

    def __init__(self, max_audio_bytes: int) -> None:
        self._max_audio_bytes = max_audio_bytes
        self._requests: deque[Request] = deque()
        self._sent = 0
        self.audio_bytes = 0
        """Bytes of buffered audio."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def full(self) -> bool:
        """Whether further audio must wait for a checkpoint."""
        return self.audio_bytes >= self._max_audio_bytes

    def append(self, request: Request) -> None:
        """Append a request."""
        if request.HasField("control"):
            self._drop_repeated(request)
        self._requests.append(request)
        self.audio_bytes += len(request.audio.data)

    def _drop_repeated(self, control: Request) -> None:
        """Drop an equal control without audio in between: the new one has the same effect."""
        for index in range(len(self._requests) - 1, -1, -1):
            if not self._requests[index].HasField("control"):
                return
            if self._requests[index] == control:
                del self._requests[index]
                self._sent -= index < self._sent
                return

    def next_unsent(self) -> Request | None:
        """Return the first unsent request and mark it as sent; None if there is none."""
        if self._sent == len(self._requests):
            return None
        self._sent += 1
        return self._requests[self._sent - 1]

    def rewind(self) -> None:
        """Mark all requests as unsent, for a new stream."""
        self._sent = 0

    def acknowledge(self, sequence: int) -> None:
        """Drop requests up to the last sent audio with at most this ``sequence``.

        A checkpoint may include controls after that audio. They are sent again, because a
        repeated control has no further effect.
        """
        covered = 0
        for index, request in enumerate(islice(self._requests, self._sent), start=1):
            if request.HasField("audio"):
                if request.audio.sequence > sequence:
                    break
                covered = index
        for _ in range(covered):
            self.audio_bytes -= len(self._requests.popleft().audio.data)
        self._sent -= covered
