"""Raw calls to a server over the generated stub, and a good one beside them."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from dataclasses import dataclass

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from streamer.audio.codec import SAMPLE_RATE, Encoding, encode
from streamer.inference.metadata import TASKS
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from tests.streamer.doubles import WAIT_SECONDS
from tests.streamer.signals import cut
from tests.streamer.wire import config, control, sound

CHUNK_SECONDS = 0.1


class Request:
    """Short names for requests."""

    config, audio, control = staticmethod(config), staticmethod(sound), staticmethod(control)


@dataclass
class Outcome:
    """How a stream ended and what it brought."""

    responses: list
    code: grpc.StatusCode
    details: str
    error: grpc.RpcError | None = None

    def of(self, kind):
        return [getattr(r, kind) for r in self.responses if r.WhichOneof("message") == kind]

    @property
    def predictions(self):
        return self.of("prediction")

    @property
    def finals(self):
        """Final prediction by channel, each exactly once and the last of its channel."""
        finals = {}
        for prediction in self.predictions:
            assert prediction.channel not in finals, "a prediction after the final one"
            if prediction.final:
                finals[prediction.channel] = prediction
        return finals

    @property
    def retry_seconds(self):
        """RetryInfo's delay, from google.rpc.Status in the trailers."""
        status = rpc_status.from_call(self.error)
        assert status is not None, "no google.rpc.Status in the trailers"
        assert (status.code, status.message) == (self.code.value[0], self.details)
        (details,) = status.details
        info = error_details_pb2.RetryInfo()
        assert details.Unpack(info)
        return info.retry_delay.ToTimedelta().total_seconds()


class RawCall:
    """One stream over the generated stub, with requests sent as the test goes along."""

    def __init__(self, method, *requests):
        self._requests = queue.SimpleQueue()
        self.stream = method(iter(self._requests.get, None), timeout=2 * WAIT_SECONDS)
        self.send(*requests)

    def send(self, *requests):
        for request in requests:
            self._requests.put(request)

    def half_close(self):
        self._requests.put(None)

    def read(self):
        return next(self.stream)

    def wait_for(self, condition):
        """Read until ``condition(response)``; returns all that was read."""
        read = []
        for response in self.stream:
            read.append(response)
            if condition(response):
                return read
        raise AssertionError("the stream ended first")

    def cancel(self):
        self.stream.cancel()
        self.half_close()

    def outcome(self):
        """Read to the end."""
        responses, error = [], None
        try:
            responses.extend(iter(self.stream))
        except grpc.RpcError as raised:
            error = raised
        finally:
            self.half_close()  # lets the sending thread go
        return Outcome(responses, self.stream.code(), self.stream.details(), error)


class Line:
    """A connection to a server."""

    def __init__(self, target, options=()):
        self.target = target
        self.channel = grpc.insecure_channel(target, options)
        self.method = pb_grpc.ClassifierServiceStub(self.channel).StreamClassify

    def open(self, *requests):
        return RawCall(self.method, *requests)

    def run(self, *requests):
        """Send everything, half-close, read to the end."""
        call = self.open(*requests)
        call.half_close()
        return call.outcome()


def logged(server, event, seconds=WAIT_SECONDS, **fields):
    """Wait for a line of a server's log."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for entry in list(server.log):
            if entry["event"] == event and fields.items() <= entry.items():
                return entry
        time.sleep(0.02)
    raise AssertionError(f"no {event} {fields} in the log")


class Neighbour:
    """A good call that other calls on its server must not affect.

    It sends about a third of its audio before, a third during and the rest after the block.
    """

    def __init__(self, line, samples):
        data = encode(samples, Encoding.MULAW)
        size = round(CHUNK_SECONDS * SAMPLE_RATE)
        self._line = line
        self._audio = [
            Request.audio(number, chunk) for number, chunk in enumerate(cut(data, [size]), start=1)
        ]
        self.quiet = self._line.run(Request.config(), *self._audio)
        assert self.quiet.code is grpc.StatusCode.OK
        assert self.quiet.finals[0].speech_time.ToTimedelta().total_seconds() > 1

    @contextlib.contextmanager
    def undisturbed(self):
        third = len(self._audio) // 3
        call = self._line.open(Request.config(), *self._audio[:third])
        before = call.wait_for(lambda r: r.HasField("prediction"))
        over = threading.Event()

        def send_rest():
            for request in self._audio[third : 2 * third]:
                call.send(request)
                over.wait(0.005)
            over.wait()
            call.send(*self._audio[2 * third :])
            call.half_close()

        sender = threading.Thread(target=send_rest)
        sender.start()
        try:
            yield
            assert call.stream.is_active()
        finally:
            over.set()
            sender.join()
            outcome = call.outcome()
        outcome.responses[:0] = before
        assert (outcome.code, outcome.details) == (grpc.StatusCode.OK, "")
        same_prediction(outcome.finals[0], self.quiet.finals[0])


def same_prediction(one, other, tolerance=1e-5):
    """Two predictions that rest on the same audio."""
    assert one.speech_time == other.speech_time
    assert one.audio_time == other.audio_time
    assert one.lost_time == other.lost_time
    for task in TASKS:
        a, b = getattr(one, task), getattr(other, task)
        np.testing.assert_allclose(a.posterior, b.posterior, rtol=0, atol=tolerance)
        assert (a.label, a.undecided) == (b.label, b.undecided)
