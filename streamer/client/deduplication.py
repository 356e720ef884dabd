"""What of a resumable call's responses is told, and when: each once, none that is not its own."""

from __future__ import annotations

from collections import deque

from streamer.rpc import voicecohort_pb2 as pb

Response = pb.StreamClassifyResponse


class ResponseDeduplicator:
    """Takes the predictions and speech events of one stream after the other.

    *Repeated* ones are dropped, by the time in the call that they speak of. Predictions of a
    channel have rising times. Its speech events have times that do not fall: a hold ends speech at
    the very sample at which it may start again, but speech has a length.

    *Held back* is what a server says that ends a call although its audio goes on elsewhere: it
    shuts down, so it ends running speech and sends final predictions. A final prediction is told
    when the stream has ended well. An end of speech is told when something follows from behind
    it, or a checkpoint, which a call that ends gets no more: at most one update later.
    """

    def __init__(self) -> None:
        self._predicted: dict[int, int] = {}  # by channel, ns of the last prediction
        self._final: set[int] = set()
        self._spoke: dict[int, tuple[int, frozenset[bool]]] = {}  # ns, and what was told of it
        self._held: deque[Response] = deque()
        self._held_time = -1  # ns, of the last end of speech held back

    def begin_stream(self) -> None:
        """Another stream was accepted: what was held back is void."""
        self._clear()

    def take(self, response: Response) -> list[Response]:
        """A prediction or a speech event; what is to be told now, in order."""
        if response.HasField("speech"):
            behind = response.speech.started
            if not behind:
                self._held_time = response.speech.audio_time.ToNanoseconds()
        else:
            time = response.prediction.audio_time.ToNanoseconds()
            behind = not response.prediction.final and time > self._held_time
        self._held.append(response)
        return self.rest() if behind else []

    def rest(self) -> list[Response]:
        """What was held back: a checkpoint came, the stream ended well, or none goes on."""
        new = [response for response in self._held if self._is_new(response)]
        self._clear()
        return new

    def finals_up_to(self, sequence: int) -> int:
        """How many channels' final predictions are held back that rest on this audio message."""
        predictions = (response.prediction for response in self._held)
        return len({p.channel for p in predictions if p.final and p.sequence == sequence})

    def _clear(self) -> None:
        self._held.clear()
        self._held_time = -1

    def _is_new(self, response: Response) -> bool:
        """Whether it is told for the first time."""
        if response.HasField("speech"):
            return self._is_new_speech(response.speech)
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

    def _is_new_speech(self, event: pb.SpeechEvent) -> bool:
        time = event.audio_time.ToNanoseconds()
        last, told = self._spoke.get(event.channel, (-1, frozenset[bool]()))
        if time < last or (time == last and event.started in told):
            return False
        self._spoke[event.channel] = (
            time,
            (told if time == last else frozenset()) | {event.started},
        )
        return True
