"""Faults injected under real gRPC: who gets a status, who notices nothing, what health says."""

import asyncio
import contextlib
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import structlog
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from streamer.admission import Policy
from streamer.engine import Engine
from streamer.models import Models, ServedModel
from streamer.operation.metrics import Metrics
from streamer.operation.watchdog import Watchdog
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.service import ClassifierService

RATE = 8000
WAIT = 20.0
Code = grpc.StatusCode
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Hurt:
    """A service around a fake student, its watchdog and its health, in this process.

    The clock of the engine moves only when the test turns it.
    """

    def __init__(self, student, make_line, exit_seconds=0.0):
        self.student = student
        self.now = 100.0
        self.metrics = Metrics()
        self.engine = Engine(
            student,
            asyncio.get_running_loop().call_soon_threadsafe,
            stepped=self.metrics.stepped,
            stuck_seconds=5.0,
            clock=lambda: self.now,
        )
        self.models = Models(ServedModel.of(self.engine), metrics=self.metrics)
        self.service = ClassifierService(self.models, Policy(), metrics=self.metrics)
        self.gave_up = []
        self.watchdog = Watchdog(
            self.models, self.metrics, self._say, lambda: self.gave_up.append(1), exit_seconds
        )
        self.server = grpc.aio.server()
        self.health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.line = make_line(f"127.0.0.1:{self.port}")
        self.asking = health_pb2_grpc.HealthStub(self.channel)

    async def _say(self, healthy):
        await self.health.set("", SERVING if healthy else NOT_SERVING)

    async def says(self):
        return (await self.asking.Check(health_pb2.HealthCheckRequest(), timeout=10)).status

    async def look(self, seconds=0.0):
        """Let time pass; a step is stuck if two looks find it so."""
        self.now += seconds
        await self.watchdog.look()
        await self.watchdog.look()

    async def recovers(self):
        """Look until the probe is answered; no time passes but between probes."""
        async with asyncio.timeout(WAIT):
            while not self.engine.health.healthy:
                await self.look(0.5)
                await asyncio.sleep(0.01)
        await self.watchdog.look()

    def open(self, *requests):
        return Stream(self.line, requests)

    async def whole(self, samples):
        """A call from config to status."""
        stream = self.open(*speech(samples))
        stream.half_close()
        return await stream.outcome()

    async def start(self):
        await self.server.start()
        await self._say(True)

    def counted(self, name, **labels):
        return self.metrics.registry.get_sample_value(f"voicecohort_{name}", labels) or 0.0


class Stream:
    """A call by gRPC's own threads: asyncio's client loses a status that comes while it writes."""

    def __init__(self, line, requests):
        self._call = line.open(*requests)

    def send(self, *requests):
        self._call.send(*requests)

    def half_close(self):
        self._call.half_close()

    async def outcome(self):
        """Code, details, final posteriors, whether it may try again."""
        ended = await asyncio.to_thread(self._call.outcome)
        return SimpleNamespace(
            code=ended.code,
            details=ended.details,
            finals=[
                (f.speech_time.ToTimedelta(), *f.gender.posterior)
                for f in ended.predictions
                if f.final
            ],
            retry=ended.error is not None and rpc_status.from_call(ended.error) is not None,
        )


def config(call_id=""):
    return pb.StreamClassifyRequest(
        config=pb.StreamConfig(
            encoding=pb.AUDIO_ENCODING_LINEAR16, sample_rate=RATE, call_id=call_id
        )
    )


def sound(sequence, samples):
    return pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=samples.tobytes()))


def speech(samples, call_id=""):
    return config(call_id), sound(1, samples)


@pytest.fixture
def hurt(run_async, make_student, make_line):
    """Run a scenario against a server with a fake student."""

    async def main(scenario, options):
        local = Hurt(make_student(), make_line, **options)
        await local.start()
        try:
            await scenario(local)
        finally:
            local.student.gate.set()
            local.student.freed.set()
            await local.channel.close()
            await local.server.stop(None)
            await asyncio.to_thread(local.engine.stop)
        assert local.service.running == 0
        assert local.service._calls == set()
        assert local.service._admission.held == {}
        assert local.models._calls[local.models.current] == 0

    return lambda scenario, **options: run_async(main(scenario, options))


@pytest.fixture
def noise():
    """2 s that pass for speech; made at random, so the gate opens."""
    return np.random.default_rng(0).integers(-9000, 9000, 2 * RATE).astype(np.int16)


@pytest.fixture
def marked(noise):
    """The same, with a marker at the start of its first block."""

    def mark(marker):
        samples = noise.copy()
        samples[0] = marker
        return samples

    return mark


@contextlib.asynccontextmanager
async def neighbour(local, noise):
    """A call around the fault that must end as if nothing had been."""
    quiet = await local.whole(noise)
    assert quiet.code is Code.OK
    assert len(quiet.finals) == 1
    stream = local.open(config(), sound(1, noise[:RATE]))

    def heard():
        return any(c.messages == 1 and not c.session.backlog for c in local.service._calls)

    await until(heard)
    yield
    stream.send(sound(2, noise[RATE:]))
    stream.half_close()
    outcome = await stream.outcome()
    assert (outcome.code, outcome.details) == (Code.OK, "")
    assert outcome.finals == quiet.finals


async def until(condition):
    async with asyncio.timeout(WAIT):
        while not condition():
            await asyncio.sleep(0.01)


# --- the student ---


@pytest.mark.parametrize(
    ("marker", "cause"),
    [("RAISES", "ArithmeticError"), ("NAN", "not finite"), ("INF", "not finite")],
)
def test_student_that_fails_on_calls_in_a_row(hurt, noise, marked, marker, cause):
    """Three whole batches: not healthy, until a probe is answered; the neighbour goes on."""

    async def scenario(local):
        async with neighbour(local, noise):
            for number in (1, 2, 3):
                await local.look()
                assert await local.says() == SERVING
                outcome = await local.whole(marked(getattr(local.student, marker)))
                assert outcome.code is Code.INTERNAL
                assert cause in outcome.details
                assert not outcome.retry
                failures = local.counted("student_failures_total")
                assert failures == number
            local.student.gate.clear()  # the probe is not answered yet
            await local.look()
            assert await local.says() == NOT_SERVING
            assert local.counted("healthy") == 0
            refused = await local.whole(noise)
            assert refused.code is Code.UNAVAILABLE
            assert refused.details == (
                "the server is not healthy: the last 3 batches failed; another one may answer"
            )
            assert refused.retry
            await until(
                lambda: local.counted("refusals_total", status="UNAVAILABLE", reason="student") == 1
            )
            local.student.gate.set()
            await local.recovers()
            assert await local.says() == SERVING
            assert local.counted("healthy") == 1
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


def test_stuck_step(hurt, noise, marked):
    async def scenario(local):
        async with neighbour(local, noise):
            bad = local.open(*speech(marked(local.student.STUCK)))
            await until(local.student.stuck.is_set)
            await local.look(4.0)
            assert await local.says() == SERVING
            await local.look(2.0)
            assert await local.says() == NOT_SERVING
            outcome = await bad.outcome()
            assert outcome.code is Code.UNAVAILABLE
            assert outcome.details == "the student failed on this call: the step is stuck"
            assert outcome.retry
            await until(
                lambda: local.counted("calls_total", status="UNAVAILABLE", reason="student") == 1
            )
            await local.recovers()  # a successor answers the probe; the old thread is still stuck
            assert not local.student.freed.is_set()
            assert await local.says() == SERVING
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


def test_student_that_sticks_for_good(hurt, noise):
    """No successor gets through either: not healthy, and given up in the end, once."""

    async def scenario(local):
        local.student.gate.clear()
        call = local.open(*speech(noise))
        await until(local.student.stepping.is_set)
        for _ in range(20):
            await local.look(3.0)
            await asyncio.sleep(0.02)  # the successor takes up the probe
        assert await local.says() == NOT_SERVING
        outcome = await call.outcome()
        assert outcome.code is Code.UNAVAILABLE
        assert local.gave_up == []
        assert local.engine.health.ill_seconds == pytest.approx(54, abs=6)
        local.now += 7
        await local.look()
        await local.look()
        assert local.gave_up == [1]

    hurt(scenario, exit_seconds=60.0)


def test_out_of_memory_for_many_is_noticed_by_none(hurt, noise):
    async def scenario(local):
        quiet = await local.whole(noise)
        local.student.room = 1
        outcomes = await asyncio.gather(*(local.whole(noise) for _ in range(6)))
        assert {(o.code, tuple(o.finals)) for o in outcomes} == {(Code.OK, tuple(quiet.finals))}
        await local.look()
        assert await local.says() == SERVING

    hurt(scenario)


def test_out_of_memory_for_each(hurt, noise):
    async def scenario(local):
        async with neighbour(local, noise):
            local.student.room = 0
            for _ in range(3):
                outcome = await local.whole(noise)
                assert outcome.code is Code.UNAVAILABLE
                assert outcome.details == "the student failed on this call: out of memory"
                assert outcome.retry
            await local.look()
            assert await local.says() == NOT_SERVING
            local.student.room = 1000
            await local.recovers()
            assert await local.says() == SERVING
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


# --- around it ---


def broken_calls(local, where, error):
    """Calls whose id is "bad" raise ``error`` in a method of their session or of their own."""
    begin = local.service._beginnings.begin

    def begin_broken(*arguments):
        call = begin(*arguments)
        if call.config.call_id == "bad":
            owner = {"session": call.session, "call": call}[where[0]]

            def raising(*_args, **_kwargs):
                raise error

            setattr(owner, where[1], raising)
        return call

    local.service._beginnings.begin = begin_broken


@pytest.mark.parametrize(
    ("where", "error"),
    [
        (("session", "audio"), MemoryError()),
        (("session", "finish"), KeyError("x")),
        (("call", "updated"), ZeroDivisionError()),
        (("call", "progressed"), MemoryError()),
        (("call", "read_all"), TimeoutError()),
    ],
)
def test_unexpected_exception_ends_one_call(hurt, noise, where, error):
    async def scenario(local):
        broken_calls(local, where, error)
        with structlog.testing.capture_logs() as logs:
            async with neighbour(local, noise):
                stream = local.open(*speech(noise, "bad"))
                stream.half_close()
                outcome = await stream.outcome()
                assert (outcome.code, outcome.details) == (
                    Code.INTERNAL,
                    f"the server failed on this call: {type(error).__name__}",
                )
                assert outcome.finals == []
                assert not outcome.retry
        await until(lambda: local.counted("calls_total", status="INTERNAL", reason="fault") == 1)
        (ended,) = [e for e in logs if e["event"] == "call_ended" and e["call_id"] == "bad"]
        assert (ended["status"], ended["slug"]) == ("INTERNAL", "fault")
        if where[1] in {"audio", "read_all", "finish"}:
            (entry,) = [e for e in logs if e["event"] == "call_broken"]
            assert (entry["call_id"], entry["log_level"]) == ("bad", "error")
        await local.look()
        assert await local.says() == SERVING

    hurt(scenario)


def test_prediction_that_cannot_be_made_is_not_left_out_in_silence(hurt, monkeypatch):
    """The last one of all, when nobody waits for the writer but the end."""

    async def scenario(local):
        def raising(*_):
            raise AttributeError

        monkeypatch.setattr("streamer.messages.prediction", raising)
        with structlog.testing.capture_logs() as logs:
            stream = local.open(config("bad"))
            stream.half_close()
            outcome = await stream.outcome()
        assert (outcome.code, outcome.details) == (
            Code.INTERNAL,
            "the server failed on this call: AttributeError",
        )
        assert [e["call_id"] for e in logs if e["event"] == "call_broken"] == ["bad"]

    hurt(scenario)


def test_exception_before_there_is_a_call_is_counted_and_leaves_no_slot(hurt, noise):
    async def scenario(local):
        begin, failing = local.service._beginnings.begin, [MemoryError()]

        def begin_once(*arguments):
            if failing:
                raise failing.pop()
            return begin(*arguments)

        local.service._beginnings.begin = begin_once
        with structlog.testing.capture_logs() as logs:
            outcome = await local.whole(noise)
        assert (outcome.code, outcome.details) == (
            Code.INTERNAL,
            "the server failed on this call: MemoryError",
        )
        assert [e["call_id"] for e in logs if e["event"] == "call_broken"] == [""]
        await until(lambda: local.counted("refusals_total", status="INTERNAL", reason="fault") == 1)
        assert local.service.running == 0
        assert (await local.whole(noise)).code is Code.OK

    hurt(scenario)


def test_sweep_that_raises_is_tried_again(hurt):
    """The limits of time must hold after it."""

    async def scenario(local):
        swept = []

        def sweep():
            swept.append(1)
            raise RuntimeError("sweep")

        local.service.sweep = sweep
        local.service.measured = lambda *_: None
        watching = asyncio.create_task(local.service.watch())
        await until(lambda: len(swept) == 2)
        watching.cancel()

    hurt(scenario)


def test_watchdog_that_raises_looks_again(hurt):
    async def scenario(local):
        looks = []

        async def look():
            looks.append(1)
            raise RuntimeError("look")

        local.watchdog.look = look
        running = asyncio.create_task(local.watchdog.run())
        await until(lambda: len(looks) == 2)
        assert not running.done()
        running.cancel()

    hurt(scenario)
