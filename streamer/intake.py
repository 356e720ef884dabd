"""Audio of a call that has come and is not heard yet."""

from __future__ import annotations

from streamer.codec import Decoder, Samples


class Intake:
    """Gathers messages, so that a call is visited once for up to a block's time of audio.

    Decoder and speech gate cost as much for each visit as for what they do in it: of messages of
    20 ms, the usual RTP packet, a call was visited fifty times a second to fill six blocks.

    Args:
        decoder: of the call.
        most: samples of every channel, at the decoder's rate, that a visit brings where messages
            are of one length, and not longer. More than a block of the student would cost more
            than it saves: the second is stepped with few others, since it does not wait for them.
    """

    def __init__(self, decoder: Decoder, most: int) -> None:
        self._decoder = decoder
        self._most = most * decoder.frame_bytes
        self._messages: list[bytes] = []
        self._bytes = 0

    def put(self, data: bytes) -> bool:
        """Whole samples of every channel as they come; True if another such would be too much."""
        self._messages.append(data)
        self._bytes += len(data)
        return self._bytes + len(data) > self._most

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
