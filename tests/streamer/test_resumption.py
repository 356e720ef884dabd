"""Calls that go on elsewhere: two replicas in this process, with clocks that tests move."""

import asyncio
import base64
import contextlib
import os
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from prometheus_client import generate_latest

from streamer.admission import Policy
from streamer.checkpoint import Checkpoints
from streamer.codec import Encoding
from streamer.engine import Engine
from streamer.models import Models, ServedModel
from streamer.operation.metrics import Metrics
from streamer.resumption import Resumption
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.identity import Caller
from streamer.security.sealing import Keys, Sealer
from streamer.service import ClassifierService

RATE = 8000
CHUNK = 800
Code = grpc.StatusCode


class ByName:
    """Who calls is what the metadata says; nobody if it says nothing."""

    def refresh(self):
        pass

    def caller(self, stream):
        names = [value for key, value in stream.invocation_metadata() if key == "name"]
        return Caller(names[0]) if names else Caller("192.0.2.1", proven=False)


class Replica:
    """A server around a fake student."""

    def __init__(self, student, keys, clock, policy):
        self.student, self.clock = student, clock
        self.engine = Engine(student, asyncio.get_running_loop().call_soon_threadsafe)
        self.metrics = Metrics()
        self.models = Models(ServedModel.of(self.engine))
        resumption = None
        if keys is not None:
            sealer = Sealer(Keys(keys), 300.0, lambda: 1e9 + clock.now)
            resumption = Resumption(Checkpoints(sealer), 300.0, self.metrics, lambda: clock.now)
        self.service = ClassifierService(
            self.models, policy, lambda: clock.now, self.metrics, ByName(), resumption
        )
        self.server = grpc.aio.server()
        pb_grpc.add_ClassifierServiceServicer_to_server(self.service, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        self.stub = pb_grpc.ClassifierServiceStub(self.channel)

    def open(self, config, name=""):
        metadata = [("name", name)] if name else []
        return Talk(self.stub.StreamClassify(metadata=metadata, timeout=60), config)

    def count(self, metric):
        """Value of a sample, labels included in its name; 0 if there is none."""
        for line in generate_latest(self.metrics.registry).decode().splitlines():
            if line.startswith(f"voicecohort_{metric} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    async def stop(self):
        await self.channel.close()
        await self.server.stop(None)
        self.student.gate.set()
        await asyncio.to_thread(self.engine.stop)


class Talk:
    """One stream."""

    def __init__(self, stream, config):
        self.stream, self.config, self.responses = stream, config, []

    async def begin(self):
        await self.stream.write(pb.StreamClassifyRequest(config=self.config))
        return self

    async def say(self, chunks, first=1):
        for sequence, data in enumerate(chunks, start=first):
            await self.stream.write(
                pb.StreamClassifyRequest(audio=pb.Audio(sequence=sequence, data=data))
            )

    async def next(self):
        response = await self.stream.read()
        if response is grpc.aio.EOF:
            return None
        self.responses.append(response)
        return response

    async def until(self, kind):
        while (response := await self.next()) is not None:
            if response.WhichOneof("message") == kind:
                return getattr(response, kind)
        raise AssertionError(f"no {kind} before the end")

    async def checkpoint(self, sequence):
        """The first one that has heard so much."""
        while (checkpoint := await self.until("checkpoint")).sequence < sequence:
            pass
        return checkpoint

    async def end(self):
        """Half-close and read to the end; code and details."""
        with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self.stream.done_writing()
        return await self.outcome()

    async def outcome(self):
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await self.next() is not None:
                pass
        return await self.stream.code(), await self.stream.details()

    def kinds(self):
        return [response.WhichOneof("message") for response in self.responses]

    @property
    def finals(self):
        found = [r.prediction for r in self.responses if r.prediction.final]
        assert len({p.channel for p in found}) == len(found)
        return found


def config(**fields):
    defaults = {
        "call_id": "call-1",
        "encoding": pb.AUDIO_ENCODING_MULAW,
        "sample_rate": RATE,
        "update_interval": Duration(seconds=60),
        "checkpoint_interval": Duration(seconds=1),
    }
    return pb.StreamConfig(**(defaults | fields))


def resuming(checkpoint, **fields):
    return config(resume_from=checkpoint.data, **fields)


@pytest.fixture(scope="module")
def chunks(audio, voices):
    """Six seconds of a caller, in 60 messages."""
    signal = voices.caller[4 * RATE : 10 * RATE]
    return audio.cut(audio.wire([signal], Encoding.MULAW), [CHUNK])


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.toml"
    secret = base64.b64encode(os.urandom(32)).decode()
    path.write_text(f'[[key]]\nid = "k"\nsecret = "{secret}"\n')
    return path


@pytest.fixture
def replicas(run_async, make_student, keys):
    """Run a scenario with replicas; made by ``make(keys=..., digest=..., **policy)``."""

    async def main(scenario):
        made, clock = [], SimpleNamespace(now=1000.0)

        async def make(keys=keys, digest=None, **policy):
            student = make_student()
            student.digest = digest or student.digest
            made.append(Replica(student, keys, clock, Policy(**policy)))
            await made[-1].server.start()
            return made[-1]

        try:
            await scenario(make, clock)
        finally:
            for replica in made:
                await replica.stop()

    return lambda scenario: run_async(main(scenario))


async def uninterrupted(replica, chunks, **fields):
    talk = await replica.open(config(**fields)).begin()
    await talk.say(chunks)
    assert (await talk.end())[0] is Code.OK
    (final,) = talk.finals
    assert final.speech_time.ToSeconds() > 2
    return final


async def broken_off(replica, chunks, heard, name="", **fields):
    """A call whose client vanishes; its checkpoint at ``heard`` messages."""
    talk = await replica.open(config(**fields), name).begin()
    whole = heard // 10 * 10
    for first in range(0, whole, 10):  # a second at a time: one checkpoint is made at once
        await talk.say(chunks[first : first + 10], first=first + 1)
        checkpoint = await talk.checkpoint(first + 10)
    await talk.say(chunks[whole:heard], first=whole + 1)
    talk.stream.cancel()
    await settled(replica)
    return checkpoint


async def settled(replica):
    while replica.service.running:
        await asyncio.sleep(0.005)


async def gone_on(replica, checkpoint, chunks, name="", **fields):
    """The rest of a call, unless it is refused; its stream, at its end."""
    talk = await replica.open(resuming(checkpoint, **fields), name).begin()
    try:
        await talk.until("started")
    except grpc.aio.AioRpcError:
        return talk
    await talk.say(chunks[checkpoint.sequence :], first=checkpoint.sequence + 1)
    await talk.end()
    return talk


# --- checkpoints of a running call ---


def test_checkpoints_come_with_the_audio(replicas, chunks):
    async def scenario(make, _):
        here = await make()
        talk = await here.open(config(checkpoint_interval=Duration(seconds=2))).begin()
        started = await talk.until("started")
        assert started.limits.checkpoints
        for first in range(0, 60, 20):
            await talk.say(chunks[first : first + 20], first=first + 1)
            assert (await talk.until("checkpoint")).sequence == first + 20
        assert (await talk.end())[0] is Code.OK
        assert talk.kinds() == ["started", *["checkpoint"] * 3, "prediction"]
        assert here.count("checkpoints_total") == here.count("checkpoint_bytes_count") == 3
        sent = sum(len(r.checkpoint.data) for r in talk.responses)
        assert here.count("checkpoint_bytes_sum") == sent > 3 * 736

    replicas(scenario)


def test_no_checkpoints_unless_asked_for(replicas, chunks):
    async def scenario(make, _):
        here = await make()
        wanted = config()
        wanted.ClearField("checkpoint_interval")
        talk = await here.open(wanted).begin()
        await talk.say(chunks)
        await talk.end()
        assert set(talk.kinds()) == {"started", "prediction"}
        assert talk.responses[0].started.limits.checkpoints

    replicas(scenario)


def test_call_on_which_nothing_is_said_keeps_a_fresh_checkpoint(replicas, chunks):
    nothing = pb.StreamClassifyRequest(control=pb.Control(resume=pb.Resume()))

    async def scenario(make, clock):
        here, there = await make(), await make()
        final = await uninterrupted(here, chunks)
        talk = await here.open(config()).begin()
        await talk.say(chunks[:10])
        old = await talk.until("checkpoint")
        before = here.count("checkpoints_total")
        for turn in range(1, 4):
            clock.now += 99.0
            here.service.sweep()
            await talk.stream.write(nothing)  # so that the call is not idle
            await asyncio.sleep(0.02)
            assert here.count("checkpoints_total") == before + turn - 1
            clock.now += 2.0
            here.service.sweep()
            fresh = await talk.until("checkpoint")
            here.service.sweep()
        assert fresh.sequence == old.sequence == 10
        talk.stream.cancel()
        stale = await gone_on(there, old, chunks)
        assert await stale.stream.code() is Code.INVALID_ARGUMENT
        resumed = await gone_on(there, fresh, chunks)
        assert resumed.finals == [final]

    replicas(scenario)


# --- going on ---


@pytest.mark.parametrize("heard", [10, 30, 59])
def test_call_that_lost_its_server_ends_as_if_it_had_not(replicas, chunks, heard):
    async def scenario(make, _):
        here, there = await make(), await make()
        final = await uninterrupted(here, chunks)
        before = there.count("audio_seconds_total")
        checkpoint = await broken_off(here, chunks, heard)
        assert checkpoint.sequence == heard // 10 * 10
        talk = await there.open(resuming(checkpoint)).begin()
        assert (await talk.until("started")).call_id == "call-1"
        fresh = await talk.until("checkpoint")
        assert talk.kinds() == ["started", "checkpoint"]
        assert fresh.sequence == checkpoint.sequence
        assert fresh.data != checkpoint.data
        # Two messages more than it must, and then the rest.
        await talk.say(chunks[checkpoint.sequence - 2 :], first=checkpoint.sequence - 1)
        assert await talk.end() == (Code.OK, "")
        assert talk.finals == [final]
        assert there.count("calls_resumed_total") == 1
        assert here.count("calls_resumed_total") == 0
        await settled(there)
        rest = (60 - checkpoint.sequence) * CHUNK / RATE
        assert there.count("audio_seconds_total") - before == pytest.approx(rest)
        assert there.count("speech_seconds_total") < rest
        assert there.count('decisions_total{label="undecided",task="gender"}') <= 1

    replicas(scenario)


def test_call_goes_on_again_and_again(replicas, chunks):
    """A nameless one, each time under the name that the first server gave it or under none."""

    async def scenario(make, _):
        two = [await make(), await make()]
        final = await uninterrupted(two[0], chunks)
        talk = await two[0].open(config(call_id="")).begin()
        name = (await talk.until("started")).call_id
        for turn in range(5):
            await talk.say(chunks[turn * 10 : turn * 10 + 10], first=turn * 10 + 1)
            checkpoint = await talk.checkpoint(turn * 10 + 10)
            talk.stream.cancel()
            call_id = "" if turn % 2 else name
            talk = await two[turn % 2].open(resuming(checkpoint, call_id=call_id)).begin()
            assert (await talk.until("started")).call_id == name
        await talk.say(chunks[50:], first=51)
        assert await talk.end() == (Code.OK, "")
        assert talk.finals == [final]

    replicas(scenario)


def test_older_checkpoint_does_as_well(replicas, chunks):
    async def scenario(make, _):
        here, there = await make(), await make()
        final = await uninterrupted(here, chunks)
        talk = await here.open(config()).begin()
        await talk.say(chunks[:20])
        older = await talk.checkpoint(20)
        await talk.say(chunks[20:40], first=21)
        await talk.checkpoint(40)
        talk.stream.cancel()
        assert (await gone_on(there, older, chunks)).finals == [final]

    replicas(scenario)


def test_call_goes_on_with_its_own_model_while_that_is_here(replicas, chunks, make_student):
    """The model was changed meanwhile: new calls have the new one."""

    async def scenario(make, _):
        here = await make()
        final = await uninterrupted(here, chunks)
        checkpoint = await broken_off(here, chunks, 30)
        newer = make_student()
        newer.metadata = newer.metadata.model_copy(update={"model_id": "newer"})
        newer.digest = "bb" * 32
        model = ServedModel.of(Engine(newer, asyncio.get_running_loop().call_soon_threadsafe))
        here.models._source = SimpleNamespace(digest=lambda: newer.digest, load=lambda: model)
        await here.models.reload()
        assert here.models.current is model
        talk = await gone_on(here, checkpoint, chunks)
        assert talk.finals == [final]
        assert talk.responses[0].started.model.model_id == "fake-1"
        fresh = await here.open(config()).begin()
        assert (await fresh.until("started")).model.model_id == "newer"
        fresh.stream.cancel()
        await asyncio.to_thread(model.engine.stop)

    replicas(scenario)


# --- one call, one stream ---


def test_stream_that_is_still_open_is_taken_over(replicas, chunks):
    async def scenario(make, _):
        here = await make()
        final = await uninterrupted(here, chunks)
        old = await here.open(config()).begin()
        await old.say(chunks[:30])
        checkpoint = await old.checkpoint(30)
        new = await here.open(resuming(checkpoint)).begin()
        assert await old.outcome() == (
            Code.ABORTED,
            "the call was taken over by a stream that resumed it",
        )
        assert old.finals == []
        await new.say(chunks[30:], first=31)
        assert await new.end() == (Code.OK, "")
        assert new.finals == [final]
        await settled(here)
        assert here.count('calls_total{reason="taken_over",status="ABORTED"}') == 1

    replicas(scenario)


def test_call_that_has_ended_well_is_used_up(replicas, chunks):
    async def scenario(make, clock):
        here = await make()
        talk = await here.open(config()).begin()
        await talk.say(chunks[:30])
        checkpoint = await talk.checkpoint(30)
        assert (await talk.end())[0] is Code.OK
        await settled(here)
        again = await here.open(resuming(checkpoint)).begin()
        assert await again.outcome() == (
            Code.FAILED_PRECONDITION,
            "config.resume_from: it is used up: the call has had its final predictions",
        )
        clock.now += 400.0
        again = await here.open(resuming(checkpoint)).begin()
        assert (await again.outcome())[0] is Code.INVALID_ARGUMENT, "too old by now"

    replicas(scenario)


def test_call_that_ended_badly_may_go_on(replicas, chunks):
    async def scenario(make, clock):
        here = await make(idle_timeout=50.0)
        final = await uninterrupted(here, chunks)
        talk = await here.open(config()).begin()
        await talk.say(chunks[:30])
        checkpoint = await talk.checkpoint(30)
        clock.now += 51.0
        here.service.sweep()
        assert (await talk.outcome())[0] is Code.DEADLINE_EXCEEDED
        assert (await gone_on(here, checkpoint, chunks)).finals == [final]

    replicas(scenario)


# --- what is refused, and harms nobody ---


def flipped(data):
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def of(checkpoint, data):
    return pb.Checkpoint(data=data, sequence=checkpoint.sequence)


FIELD = "config.resume_from: a checkpoint of"
REFUSED = {
    "forged": (lambda c: resuming(of(c, os.urandom(len(c.data)))), Code.INVALID_ARGUMENT, FIELD),
    "truncated": (lambda c: resuming(of(c, c.data[:-1])), Code.INVALID_ARGUMENT, FIELD),
    "prolonged": (lambda c: resuming(of(c, c.data + b"x")), Code.INVALID_ARGUMENT, FIELD),
    "a byte": (lambda c: resuming(of(c, b"V")), Code.INVALID_ARGUMENT, FIELD),
    "bit flipped": (lambda c: resuming(of(c, flipped(c.data))), Code.INVALID_ARGUMENT, FIELD),
    "other call": (
        lambda c: resuming(c, call_id="call-2"),
        Code.INVALID_ARGUMENT,
        "config.call_id: another value",
    ),
    "other encoding": (
        lambda c: resuming(c, encoding=pb.AUDIO_ENCODING_ALAW),
        Code.INVALID_ARGUMENT,
        "config.encoding: another value",
    ),
    "other rate": (
        lambda c: resuming(c, sample_rate=16000),
        Code.INVALID_ARGUMENT,
        "config.sample_rate: another value",
    ),
    "other channels": (
        lambda c: resuming(c, channels=[pb.ChannelConfig()] * 2),
        Code.INVALID_ARGUMENT,
        "config.channels: another value",
    ),
    "no interval": (
        lambda c: resuming(c, checkpoint_interval=None),
        Code.INVALID_ARGUMENT,
        "config.checkpoint_interval: another value",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_checkpoint_that_does_not_belong_is_refused(replicas, chunks, name):
    make_config, code, details = REFUSED[name]

    async def scenario(make, _):
        here, there = await make(), await make()
        final = await uninterrupted(there, chunks)
        checkpoint = await broken_off(here, chunks, 30)
        neighbour = await there.open(config(call_id="neighbour")).begin()
        await neighbour.say(chunks[:30])
        talk = await there.open(make_config(checkpoint)).begin()
        got, said = await talk.outcome()
        assert (got, said[: len(details)]) == (code, details)
        assert talk.responses == []
        await neighbour.say(chunks[30:], first=31)
        assert await neighbour.end() == (Code.OK, "")
        assert neighbour.finals == [final]
        assert there.count(f'refusals_total{{reason="checkpoint",status="{code.name}"}}') == 1
        assert there.count("calls_resumed_total") == 0
        # and the call itself is none the worse for it
        assert (await gone_on(there, checkpoint, chunks)).finals == [final]

    replicas(scenario)


def test_stale_checkpoint(replicas, chunks):
    async def scenario(make, clock):
        here, there = await make(), await make()
        checkpoint = await broken_off(here, chunks, 30)
        clock.now += 301.0
        code, details = await (await there.open(resuming(checkpoint)).begin()).outcome()
        assert code is Code.INVALID_ARGUMENT
        assert details.endswith("it is 301 s old, at most 300 s are allowed")
        clock.now -= 2.0
        talk = await gone_on(there, checkpoint, chunks)
        assert await talk.stream.code() is Code.OK

    replicas(scenario)


def test_checkpoint_of_another_model(replicas, chunks):
    async def scenario(make, _):
        here, there = await make(), await make(digest="cd" * 32)
        checkpoint = await broken_off(here, chunks, 30)
        assert await (await there.open(resuming(checkpoint)).begin()).outcome() == (
            Code.FAILED_PRECONDITION,
            "config.resume_from: it is of a student that this server does not have",
        )

    replicas(scenario)


@pytest.mark.parametrize(
    ("opened", "resumed", "code"),
    [
        ("berlin", "berlin", Code.OK),
        ("berlin", "oslo", Code.PERMISSION_DENIED),
        ("berlin", "", Code.PERMISSION_DENIED),
        ("", "oslo", Code.PERMISSION_DENIED),
    ],
)
def test_checkpoint_of_another_identity(replicas, chunks, opened, resumed, code):
    async def scenario(make, _):
        here, there = await make(), await make()
        checkpoint = await broken_off(here, chunks, 30, opened)
        talk = await gone_on(there, checkpoint, chunks, resumed)
        assert await talk.stream.code() is code
        if code is not Code.OK:
            assert await talk.stream.details() == (
                "config.resume_from: the call was opened by another identity"
            )

    replicas(scenario)


def test_server_without_keys(replicas, chunks):
    async def scenario(make, _):
        here, there = await make(), await make(keys=None)
        checkpoint = await broken_off(here, chunks, 30)
        wanted = resuming(checkpoint)
        assert (await (await there.open(wanted).begin()).outcome())[0] is Code.FAILED_PRECONDITION
        wanted.ClearField("checkpoint_interval")
        assert await (await there.open(wanted).begin()).outcome() == (
            Code.FAILED_PRECONDITION,
            "config.resume_from: this server has no checkpoints",
        )

    replicas(scenario)


def test_server_with_other_keys(replicas, chunks, tmp_path):
    other = tmp_path / "other.toml"
    other.write_text(f'[[key]]\nid = "other"\nsecret = "{base64.b64encode(bytes(32)).decode()}"\n')

    async def scenario(make, _):
        here, there = await make(), await make(keys=other)
        checkpoint = await broken_off(here, chunks, 30)
        code, details = await (await there.open(resuming(checkpoint)).begin()).outcome()
        assert code is Code.INVALID_ARGUMENT
        assert details.endswith("no key of this server opens it")

    replicas(scenario)


def test_call_does_not_get_longer_than_one_may_by_moving(replicas, chunks):
    async def scenario(make, clock):
        here, there = await make(), await make(max_call_seconds=5.0)
        checkpoint = await broken_off(here, chunks, 30)
        clock.now += 1.0
        talk = await there.open(resuming(checkpoint)).begin()
        await talk.until("started")
        there.service.sweep()
        clock.now += 1.1  # 3 s long, 1 s without a server, and 1.1 s here
        there.service.sweep()
        assert (await talk.outcome())[0] is Code.RESOURCE_EXHAUSTED
        assert len(talk.finals) == 1

    replicas(scenario)


def test_call_that_catches_up_is_live_again(replicas, chunks):
    """What it says at once was said while it had no server: only that is ahead of time."""

    async def scenario(make, clock):
        here, there = await make(), await make()
        checkpoint = await broken_off(here, chunks, 30)
        clock.now += 2.0
        talk = await there.open(resuming(checkpoint)).begin()
        await talk.until("started")
        (call,) = there.service._calls
        await talk.say(chunks[30:50], first=31)
        while call.session.audio_seconds < 5:
            await asyncio.sleep(0.005)
        assert not call.ahead(clock.now)
        await talk.say(chunks[50:], first=51)
        while call.session.audio_seconds < 6:
            await asyncio.sleep(0.005)
        assert call.ahead(clock.now)
        await talk.end()

    replicas(scenario)


# --- a server that shuts down ---


def test_drain_sends_calls_with_checkpoints_away(replicas, chunks):
    async def scenario(make, _):
        here, there = await make(), await make()
        final = await uninterrupted(here, chunks)
        plain = config(call_id="plain")
        plain.ClearField("checkpoint_interval")
        stays = await here.open(plain).begin()
        await stays.say(chunks[:20])
        moving = []
        for number in range(4):
            talk = await here.open(config(call_id=f"call-{number}")).begin()
            await talk.say(chunks[: 15 + number])
            moving.append(talk)
        for call in list(here.service._calls):
            while call.session.audio_seconds < 1.5:
                await asyncio.sleep(0.005)
        while sum(call.messages for call in here.service._calls) < 20 + 15 + 16 + 17 + 18:
            await asyncio.sleep(0.005)
        began, ends = asyncio.get_running_loop().time(), []

        async def outcome(talk):
            ended = await talk.outcome()
            ends.append(asyncio.get_running_loop().time() - began)
            return ended

        draining = asyncio.create_task(here.service.drain(1.6))
        for ended in await asyncio.gather(*(outcome(talk) for talk in moving)):
            assert ended == (
                Code.UNAVAILABLE,
                "the server is shutting down; resume the call from its last checkpoint",
            )
        # Spread over the first half: 0, 0.2, 0.4, 0.6 s.
        ends.sort()
        assert ends[-1] < 1.2
        assert all(end > 0.2 * number - 0.02 for number, end in enumerate(ends))
        for number, talk in enumerate(moving):
            assert talk.kinds()[-1] == "checkpoint", "nothing comes behind it"
            assert talk.finals == []
            last = talk.responses[-1].checkpoint
            assert last.sequence == 15 + number
            on = await gone_on(there, last, chunks, call_id=f"call-{number}")
            assert on.finals == [final]
        assert not draining.done()
        await stays.say(chunks[20:], first=21)
        assert await stays.end() == (Code.OK, "")
        assert stays.finals == [final]
        await draining
        assert here.count('calls_total{reason="moved",status="UNAVAILABLE"}') == 4

    replicas(scenario)


def test_drain_of_a_call_that_has_heard_nothing(replicas, chunks):
    async def scenario(make, _):
        here, there = await make(), await make()
        final = await uninterrupted(here, chunks)
        talk = await here.open(config()).begin()
        await talk.until("started")
        await here.service.drain(5.0)
        assert (await talk.outcome())[0] is Code.UNAVAILABLE
        assert talk.kinds() == ["started"]
        assert (await uninterrupted(there, chunks)) == final

    replicas(scenario)


def test_call_that_ends_while_it_is_sent_away_ends_well(replicas, chunks):
    """Half-closed, and its last blocks still with the student, when the server is told to stop."""

    async def scenario(make, _):
        here = await make()
        final = await uninterrupted(here, chunks)
        talk = await here.open(config()).begin()
        here.student.gate.clear()
        await talk.say(chunks)
        await talk.stream.done_writing()
        (call,) = here.service._calls
        while not call.session.finishing:
            await asyncio.sleep(0.005)
        draining = asyncio.create_task(here.service.drain(5.0))
        await asyncio.sleep(0.05)
        here.student.gate.set()
        assert await talk.outcome() == (Code.OK, "")
        assert talk.finals == [final]
        await draining

    replicas(scenario)


def test_audio_that_comes_while_a_call_is_sent_away_is_not_heard_twice(replicas, chunks):
    async def scenario(make, _):
        here, there = await make(), await make()
        final = await uninterrupted(here, chunks)
        await settled(here)
        before = here.count("audio_seconds_total")
        talk = await here.open(config()).begin()
        here.student.gate.clear()
        await talk.say(chunks[:30])
        (call,) = here.service._calls
        while call.messages < 30:
            await asyncio.sleep(0.005)
        draining = asyncio.create_task(here.service.drain(5.0))
        await asyncio.sleep(0.05)
        await talk.say(chunks[30:40], first=31)  # the student has yet to come to the checkpoint
        await asyncio.sleep(0.05)
        here.student.gate.set()
        assert (await talk.outcome())[0] is Code.UNAVAILABLE
        last = talk.responses[-1].checkpoint
        assert last.sequence == 30
        await draining
        assert here.count("audio_seconds_total") - before == pytest.approx(3.0)
        assert (await gone_on(there, last, chunks)).finals == [final]
        await settled(there)
        assert there.count("audio_seconds_total") == pytest.approx(3.0)

    replicas(scenario)
