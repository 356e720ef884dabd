"""What the gateway has been told already; a resumed call's server says some of it again."""

from __future__ import annotations

from streamer.rpc import voicecohort_pb2 as pb

Response = pb.StreamClassifyResponse


class Delivered:
    """Tells what is new from what is repeated, per channel, by the time in the call it speaks of.

    Predictions of a channel have rising times. Its speech events have times that do not fall:
    a hold ends speech at the very sample at which it may start again.
    """

    def __init__(self) -> None:
        self._predicted: dict[int, int] = {}  # by channel, ns of the last prediction
        self._final: set[int] = set()
        self._spoke: dict[int, tuple[int, list[bool]]] = {}  # ns, and all events at that time
        self._repeated: dict[int, int] = {}  # how many of those this stream has said again

    def rewind(self) -> None:
        """Another stream begins: it may repeat."""
        self._repeated.clear()

    def admit(self, response: Response) -> bool:
        """Whether a prediction or a speech event is new; if so it counts as delivered."""
        if response.HasField("speech"):
            return self._admit_speech(response.speech)
        prediction = response.prediction
        channel, time = prediction.channel, prediction.audio_time.ToNanoseconds()
        last = self._predicted.get(channel, -1)
        # A final one may speak of the same audio as the running one before it.
        new = time > last or (prediction.final and time == last)
        if not new or channel in self._final:
            return False
        self._predicted[channel] = time
        if prediction.final:
            self._final.add(channel)
        return True

    def _admit_speech(self, event: pb.SpeechEvent) -> bool:
        time = event.audio_time.ToNanoseconds()
        last, told = self._spoke.get(event.channel, (-1, []))
        if time < last:
            return False
        if time > last:
            told = []
            self._repeated[event.channel] = 0
        repeated = self._repeated.get(event.channel, 0)
        if event.started in told[repeated:]:
            self._repeated[event.channel] = told.index(event.started, repeated) + 1
            return False
        told.append(event.started)
        self._spoke[event.channel] = (time, told)
        self._repeated[event.channel] = len(told)
        return True
