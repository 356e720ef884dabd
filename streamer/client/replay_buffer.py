"""What a call may have to say again: its requests since the last checkpoint."""

from __future__ import annotations

from collections import deque
from itertools import islice

from streamer.rpc import voicecohort_pb2 as pb

Request = pb.StreamClassifyRequest


class ReplayBuffer:
    """Requests in order, those the present stream was given before those it was not.

    Memory is bounded by ``most_audio`` and one message, if who adds heeds :attr:`full`: audio
    frees its place at a checkpoint, and of controls with no audio between them each kind is kept
    once.

    Args:
        most_audio: bytes of audio at which it is full.
    """

    def __init__(self, most_audio: int) -> None:
        self._most_audio = most_audio
        self._requests: deque[Request] = deque()
        self._given = 0
        self.audio = 0
        """Bytes of audio kept."""

    def __len__(self) -> int:
        return len(self._requests)

    @property
    def full(self) -> bool:
        """Whether more audio has to wait for a checkpoint."""
        return self.audio >= self._most_audio

    def add(self, request: Request) -> None:
        """Keep one more."""
        if request.HasField("control"):
            self._forget_repeated(request)
        self._requests.append(request)
        self.audio += len(request.audio.data)

    def _forget_repeated(self, control: Request) -> None:
        """Without audio in between a control undoes or repeats all that an equal one did before."""
        for index in range(len(self._requests) - 1, -1, -1):
            if not self._requests[index].HasField("control"):
                return
            if self._requests[index] == control:
                del self._requests[index]
                self._given -= index < self._given
                return

    def next(self) -> Request | None:
        """The first that the present stream was not given; it counts as given from now on."""
        if self._given == len(self._requests):
            return None
        self._given += 1
        return self._requests[self._given - 1]

    def rewind(self) -> None:
        """The next stream has been given nothing."""
        self._given = 0

    def forget(self, sequence: int) -> None:
        """Everything up to the last given audio with at most this ``sequence``.

        A control behind it may be part of the checkpoint or not: it is said again, and the server
        takes a repeated one for the first.
        """
        covered = 0
        for index, request in enumerate(islice(self._requests, self._given), start=1):
            if request.HasField("audio"):
                if request.audio.sequence > sequence:
                    break
                covered = index
        for _ in range(covered):
            self.audio -= len(self._requests.popleft().audio.data)
        self._given -= covered
