"""Deduplication of responses over the streams of a resumable call."""

from __future__ import annotations

from collections import deque

from streamer.rpc import voicecohort_pb2 as pb

Response = pb.StreamClassifyResponse


class ResponseDeduplicator:
    """Filters predictions and speech events of successive streams; each is delivered once.

    *Repeated* responses are dropped by their time in the call. Prediction times of a channel
    increase. Times of its speech events do not decrease: a hold ends speech at the sample at which
    speech may start again, but speech has a length.

    *Held back* are responses with which a server that shuts down ends a call, although its audio
    goes on elsewhere: final predictions and the end of running speech. A final prediction is
    delivered after the stream has ended with OK. An end of speech is delivered when a later
    response follows, or a checkpoint, which an ending call does not get: at most one update later.
    """

    def __init__(self) -> None:
        self._predicted: dict[int, int] = {}  # by channel, ns of the last prediction
        self._final: set[int] = set()
        self._speech: dict[int, tuple[int, frozenset[bool]]] = {}  # ns, events
        self._held: deque[Response] = deque()
        self._held_time = -1  # ns of the last held-back end of speech

    def begin_stream(self) -> None:
        """Drop held-back responses: another stream was accepted."""
        self._clear()

    def push(self, response: Response) -> list[Response]:
        """Add a prediction or speech event; return the responses to deliver now, in order."""
        if response.HasField("speech"):
            releases = response.speech.started
            if not releases:
                self._held_time = response.speech.audio_time.ToNanoseconds()
        else:
            time = response.prediction.audio_time.ToNanoseconds()
            releases = not response.prediction.final and time > self._held_time
        self._held.append(response)
        return self.flush() if releases else []

    def flush(self) -> list[Response]:
        """Return the held-back responses: after a checkpoint, or after the last stream."""
        new = [response for response in self._held if self._is_new(response)]
        self._clear()
        return new

    def count_finals(self, sequence: int) -> int:
        """Return the number of channels with a held-back final prediction at this audio message."""
        predictions = (response.prediction for response in self._held)
        return len({p.channel for p in predictions if p.final and p.sequence == sequence})

    def _clear(self) -> None:
        self._held.clear()
        self._held_time = -1

    def _is_new(self, response: Response) -> bool:
        """Return whether the response was not delivered yet, and record it as delivered."""
        if response.HasField("speech"):
            return self._is_new_speech(response.speech)
        prediction = response.prediction
        channel, time = prediction.channel, prediction.audio_time.ToNanoseconds()
        last = self._predicted.get(channel, -1)
        # A final prediction may have the time of the running one before it.
        new = time > last or (prediction.final and time == last)
        if not new or channel in self._final:
            return False
        self._predicted[channel] = time
        if prediction.final:
            self._final.add(channel)
        return True

    def _is_new_speech(self, event: pb.SpeechEvent) -> bool:
        time = event.audio_time.ToNanoseconds()
        last, delivered = self._speech.get(event.channel, (-1, frozenset[bool]()))
        if time < last or (time == last and event.started in delivered):
            return False
        self._speech[event.channel] = (
            time,
            (delivered if time == last else frozenset()) | {event.started},
        )
        return True
