"""Doubles and helpers of the streamer's tests, handed out as fixtures."""

from __future__ import annotations

import contextlib
import itertools
import queue
import socket
import threading
import time
import zlib
from dataclasses import dataclass, field
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import soxr
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from streamer.channel import FRAME_SAMPLES
from streamer.codec import SAMPLE_RATE, Decoder, Encoding, decode, encode, to_int16
from streamer.engine import Engine
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.session import CallConfig, CallSession
from streamer.student import TASKS, Metadata
from streamer.vad import speech_of

WAIT_SECONDS = 30.0
"""Far longer than anything takes; only a failing test waits for it."""
CHUNK_SECONDS = 0.1


# --- a student whose answers give every mistake away ---


class FakeStudent:
    """A student whose posteriors are a hash of all samples heard, in order, bit for bit.

    Args:
        state_size: longer than the two numbers it needs, so that a mixed-up row shows.
        plain_temperature: what the decision finds in the metadata.

    Attributes:
        batches: first sample of every row of every batch, as int16.
        gate: cleared, every step waits for it.
        stepping: set as soon as a step has begun.
        stuck: set as soon as a step with the STUCK marker has begun; it waits for ``freed``.
        room: most rows of a step; more are a MemoryError.
    """

    RAISES, NAN, INF, STUCK = 23456, 23457, 23458, 23459
    """Samples (at the start of a block) that make a step fail."""

    def __init__(self, state_size=8):
        self.metadata = Metadata.model_validate(
            {
                "contract": 1,
                "model_id": "fake-1",
                "sample_rate": 8000,
                "block": 1280,
                "state_size": state_size,
                "labels": {
                    "gender": ["female", "male"],
                    "age_group": ["young", "middle", "senior"],
                    "age_band": ["teens", "20s", "40s", "60s"],
                    "parent": [0, 0, 1, 2],
                },
                "calibration": {t: {"speech_seconds": [1], "temperature": [1]} for t in TASKS},
                "decision": {t: {"min_speech_seconds": 1, "min_confidence": 0.4} for t in TASKS},
            }
        )
        self.digest = "fa" * 32
        self.batches = []
        self.gate = threading.Event()
        self.gate.set()
        self.stepping = threading.Event()
        self.stuck = threading.Event()
        self.freed = threading.Event()
        self.room = 1000

    def step(self, samples, valid, state):
        self.stepping.set()
        assert self.gate.wait(WAIT_SECONDS)
        firsts = np.rint(samples[:, 0] * 32768).astype(int).tolist()
        self.batches.append(firsts)
        if len(firsts) > self.room:
            raise MemoryError("marker")
        if self.STUCK in firsts:
            self.stuck.set()
            assert self.freed.wait(WAIT_SECONDS)
        if self.RAISES in firsts:
            raise ArithmeticError("marker")
        after = np.empty_like(state)
        rows = []
        for row, first in enumerate(firsts):
            assert (samples[row, valid[row] :] == 0).all(), "padding must be silence"
            assert (state[row] == state[row, 0]).all(), "a state of two lanes"
            heard = np.rint(samples[row, : valid[row]] * 32768).astype("<i2").tobytes()
            # 24 bits, which a float32 holds exactly
            after[row] = zlib.crc32(heard, int(state[row, 0])) & 0xFFFFFF
            rows.append(self._posteriors(int(after[row, 0])))
            if first == self.NAN:
                rows[-1][1][0] = np.nan
            if first == self.INF:
                after[row, :2] = np.inf, -np.inf
        return [np.array([row[task] for row in rows], np.float32) for task in range(3)], after

    def _posteriors(self, digest):
        rows = []
        for classes in (2, 3, 4):
            weights = [1 + digest * prime % 251 for prime in (1, 3, 5, 7)[:classes]]
            rows.append([weight / sum(weights) for weight in weights])
        return rows


# --- sessions without a server ---


class Bench:
    """An engine whose results are handed out on the test's thread, when the test says so."""

    def __init__(self, student, max_batch=64, **options):
        self.student = student
        self._due = queue.SimpleQueue()
        self.engine = Engine(student, self._due.put, max_batch=max_batch, **options)

    def pump(self):
        """Hand out what is ready."""
        while not self._due.empty():
            self._due.get()()

    def wait(self, done):
        """Hand out until ``done()``."""
        until = time.monotonic() + WAIT_SECONDS
        while not done():
            with contextlib.suppress(queue.Empty):
                self._due.get(timeout=0.1)()
                continue
            assert self.engine.alive, "the engine's thread died"
            assert time.monotonic() < until, "the engine does not answer"

    def quiet(self, seconds=0.2):
        """Hand out until nothing comes for a while."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._due.get(timeout=seconds)()

    def settle(self, recorder):
        """Hand out until a call's backlog is done."""
        self.wait(lambda: recorder.session.backlog == 0)

    def session(self, **config):
        """A call on this engine and the recorder that listens to it."""
        recorder = Recorder()
        defaults = {"call_id": "call", "encoding": Encoding.MULAW, "sample_rate": SAMPLE_RATE}
        recorder.session = CallSession(CallConfig(**(defaults | config)), self.engine, recorder)
        return recorder

    def play(self, chunks, **config):
        """A whole call; numbers its messages from 1."""
        recorder = self.session(**config)
        for sequence, chunk in enumerate(chunks, start=1):
            recorder.session.audio(sequence, chunk)
            self.pump()
        return self.finish(recorder)

    def finish(self, recorder):
        """Finish a call and wait for its finals."""
        recorder.session.finish()
        self.wait(lambda: recorder.session.done or recorder.errors)
        recorder.session.close()
        return recorder


@dataclass
class Recorder:
    """Listens to one session."""

    updates: list = field(default_factory=list)
    events: list = field(default_factory=list)
    errors: list = field(default_factory=list)
    session: CallSession | None = None

    def updated(self, update):
        self.updates.append(update)

    def spoke(self, channel, started, audio_seconds):
        self.events.append((channel, started, audio_seconds))

    def progressed(self):
        pass

    def failed(self, error):
        self.errors.append(error)

    @property
    def finals(self):
        """Final update by channel."""
        finals = [update for update in self.updates if update.final]
        assert len({update.channel for update in finals}) == len(finals)
        return {update.channel: update for update in finals}

    @property
    def course(self):
        """Posteriors by channel and speech heard: the same however the call is cut."""
        return {(u.channel, u.speech_seconds): u.posteriors for u in self.updates}


@pytest.fixture(scope="session")
def make_student():
    """The class of fake students."""
    return FakeStudent


@pytest.fixture(scope="session")
def make_bench():
    """Start an engine around a student; it is stopped at the end of the run."""
    made = []

    def make(student=None, **options):
        made.append(Bench(student or FakeStudent(), **options))
        return made[-1]

    yield make
    for bench in made:
        if isinstance(bench.student, FakeStudent):
            bench.student.gate.set()
            bench.student.freed.set()
        bench.engine.stop()


@pytest.fixture(scope="session")
def bench(make_bench):
    """An engine around a fake student, shared by tests that leave its gate alone."""
    return make_bench()


@pytest.fixture(scope="session")
def real_bench(make_bench, student):
    """An engine around the shipped student."""
    return make_bench(student)


# --- audio ---


def wire(channels, encoding, sample_rate=SAMPLE_RATE):
    """int16 signals at 8 kHz to the bytes of a call, interleaved."""
    if sample_rate != SAMPLE_RATE:
        channels = [
            to_int16(soxr.resample(c.astype(np.float64), SAMPLE_RATE, sample_rate))
            for c in channels
        ]
    return encode(np.stack(channels, axis=1), encoding)


def cut(data, sizes, frame_bytes=1, most=None):
    """Bytes in chunks of so many samples, over and over; after ``most`` chunks of a second."""
    chunks, start = [], 0
    for size in itertools.cycle(sizes):
        if start >= len(data):
            return chunks
        length = (size if most is None or len(chunks) < most else SAMPLE_RATE) * frame_bytes
        chunks.append(data[start : start + length])
        start += length
    raise AssertionError("no sizes")


def direct(student, samples):
    """Posteriors and heard samples of an utterance, by nothing but a loop over its speech."""
    meta = student.metadata
    speech = speech_of(samples)
    state = np.zeros((1, meta.state_size), np.float32)
    posteriors, heard = None, 0
    for start in range(0, len(speech), meta.block):
        block = speech[start : start + meta.block]
        if len(block) < FRAME_SAMPLES:
            break
        padded = np.zeros((1, meta.block), np.float32)
        padded[0, : len(block)] = block / np.float32(32768)
        tasks, state = student.step(padded, np.array([len(block)]), state)
        posteriors = [task[0].tolist() for task in tasks]
        heard += len(block) // FRAME_SAMPLES * FRAME_SAMPLES
    return posteriors, heard


def as_heard(data, encoding, sample_rate, channels):
    """What each channel's gate gets of a whole call, decoded in one go."""
    return Decoder(encoding, sample_rate, channels).push(data)


@pytest.fixture(scope="session")
def voices(demo_call):
    """The demo call's two sides, int16 at 8 kHz."""
    samples = decode(demo_call.data, Encoding.MULAW)
    return SimpleNamespace(caller=samples[0::2].copy(), agent=samples[1::2].copy())


@pytest.fixture(scope="session")
def audio():
    """Functions on audio: wire, cut, direct, as_heard."""
    return SimpleNamespace(wire=wire, cut=cut, direct=direct, as_heard=as_heard)


# --- raw calls to a server ---


class Request:
    """Short names for requests."""

    @staticmethod
    def config(**fields):
        defaults = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate": 8000}
        return pb.StreamClassifyRequest(config=pb.StreamConfig(**(defaults | fields)))

    @staticmethod
    def audio(sequence, data, start_sample=None):
        audio = pb.Audio(sequence=sequence, data=data, start_sample=start_sample)
        return pb.StreamClassifyRequest(audio=audio)

    @staticmethod
    def control(action, *channels):
        empty = {action: getattr(pb, action.capitalize())()}
        return pb.StreamClassifyRequest(control=pb.Control(channels=channels, **empty))


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

    def wait_for(self, wanted):
        """Read until ``wanted(response)``; returns all that was read."""
        read = []
        for response in self.stream:
            read.append(response)
            if wanted(response):
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


@pytest.fixture(scope="session")
def request_of():
    """Makers of requests: config, audio, control."""
    return Request


@pytest.fixture(scope="session")
def make_line():
    """Connect to a target."""
    made = []

    def make(target, *options):
        made.append(Line(target, options))
        return made[-1]

    yield make
    for line in made:
        line.channel.close()


@pytest.fixture(scope="session")
def line(server, make_line):
    """A connection to the shared server."""
    return make_line(server.target)


def logged(server, event, seconds=WAIT_SECONDS, **fields):
    """Wait for a line of a server's log."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for entry in list(server.log):
            if entry["event"] == event and fields.items() <= entry.items():
                return entry
        time.sleep(0.02)
    raise AssertionError(f"no {event} {fields} in the log")


@pytest.fixture(scope="session")
def log_entry():
    """Wait for a line of a server's log."""
    return logged


class Neighbour:
    """A good call that must not notice what happens to others on its server.

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

        def go_on():
            for request in self._audio[third : 2 * third]:
                call.send(request)
                over.wait(0.005)
            over.wait()
            call.send(*self._audio[2 * third :])
            call.half_close()

        sender = threading.Thread(target=go_on)
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


@pytest.fixture(scope="session")
def assert_same_prediction():
    """Compare two Prediction messages: times exactly, posteriors to 1e-5."""
    return same_prediction


@pytest.fixture(scope="session")
def make_neighbour():
    """Make a good call on a line out of 8 kHz samples."""
    return Neighbour


@pytest.fixture(scope="session")
def neighbour(line, voices):
    """The good call on the shared server."""
    return Neighbour(line, voices.caller[4 * SAMPLE_RATE : 9 * SAMPLE_RATE])


@pytest.fixture
def free_port():
    """A loopback port at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
