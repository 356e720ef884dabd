"""The calls and the connection of a client."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from streamer.client.authorization import bearer
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

Role = Literal["caller", "agent", "unspecified", "ignored"]


@dataclass(frozen=True)
class Task:
    """What is known of one task; ``label`` is empty and ``undecided`` says why, while undecided."""

    posterior: dict[str, float]
    label: str
    confidence: float
    undecided: str


@dataclass(frozen=True)
class Prediction:
    """What is known of the speaker of one channel; times in seconds."""

    channel: int
    sequence: int
    audio_time: float
    speech_time: float
    lost_time: float
    gender: Task
    age_group: Task
    age_band: Task
    final: bool


@dataclass(frozen=True)
class SpeechEvent:
    """Speech began or ended; seconds since the start of the call."""

    channel: int
    started: bool
    audio_time: float


Event = Prediction | SpeechEvent


def _task(message: pb.TaskPrediction, labels: Sequence[str]) -> Task:
    reason = pb.UndecidedReason.Name(message.undecided).removeprefix("UNDECIDED_REASON_")
    return Task(
        posterior=dict(zip(labels, message.posterior, strict=True)),
        label=message.label,
        confidence=message.confidence,
        undecided="" if message.label else reason.lower(),
    )


def _seconds(message: Duration) -> float:
    return message.seconds + message.nanos / 1e9


class Call:
    """One call in progress; made by :meth:`Client.call`, used as an async context manager.

    Audio goes in by :meth:`send`; predictions come out by iterating, or all at once at
    :meth:`finish`. Errors of the server are raised as ``grpc.aio.AioRpcError``, whose ``code()``
    and ``details()`` say what and why.
    """

    def __init__(
        self,
        stub: pb_grpc.ClassifierServiceAsyncStub,
        config: pb.StreamConfig,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self._stream = stub.StreamClassify(metadata=headers)
        self._stream.add_done_callback(self._remember_status)
        self._writing = asyncio.Lock()  # grpc.aio takes one write at a time
        self._error: grpc.aio.AioRpcError | None = None
        self._config = config
        self._sequence = 0
        self.started = pb.Started()
        """The server's answer to the config: model, labels, limits."""

    async def __aenter__(self) -> Self:
        await self._write(pb.StreamClassifyRequest(config=self._config))
        first = await self._read()
        if first is None:
            raise ConnectionError("the server ended the call before it began")
        self.started = first.started
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stream.cancel()  # no effect on a call that has ended

    async def _write(self, request: pb.StreamClassifyRequest) -> None:
        try:
            async with self._writing:
                await self._stream.write(request)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._raise_status()
            raise

    async def _read(self) -> pb.StreamClassifyResponse | None:
        """Next response; None after the last of a call that ended well."""
        try:
            response = await self._stream.read()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            await self._raise_status()
            raise
        if isinstance(response, pb.StreamClassifyResponse):
            return response
        await self._raise_status()
        return None

    def _remember_status(self, _: object) -> None:
        """Keep the server's error as soon as it is there.

        A write that meets the end of the stream makes grpc.aio overwrite the status with INTERNAL,
        "Internal error from Core" (grpc issue 36066), and a gateway would not learn why its call
        ended or when to try again. When this callback runs, what is awaited here is known.
        """
        status = self._status()
        with contextlib.suppress(StopIteration):
            status.send(None)
        status.close()

    async def _status(self) -> None:
        code = await self._stream.code()
        if self._error is None and code is not grpc.StatusCode.OK:
            self._error = grpc.aio.AioRpcError(
                code,
                await self._stream.initial_metadata(),
                await self._stream.trailing_metadata(),
                details=await self._stream.details(),
            )

    async def _raise_status(self) -> None:
        """Raise the server's error, if the call ended with one."""
        await self._status()
        if self._error is not None:
            raise self._error

    async def send(
        self, data: bytes, *, lost_before: int = 0, start_sample: int | None = None
    ) -> int:
        """Send whole samples of every channel; returns the sequence number used.

        Args:
            data: as the config's encoding says; 100 to 200 ms a message is economical.
            lost_before: messages of this size that never reached the gateway.
            start_sample: media time of the first sample, if the gateway knows it (RTP).
        """
        self._sequence += 1 + lost_before
        sequence = self._sequence
        audio = pb.Audio(sequence=sequence, data=data, start_sample=start_sample)
        await self._write(pb.StreamClassifyRequest(audio=audio))
        return sequence

    async def discard(self, *channels: int) -> None:
        """Another person speaks from now on: forget what was heard (all channels if none named)."""
        await self._control(pb.Control(channels=channels, discard=pb.Discard()))

    async def hold(self, *channels: int) -> None:
        """Stop listening: music on hold."""
        await self._control(pb.Control(channels=channels, hold=pb.Hold()))

    async def resume(self, *channels: int) -> None:
        """Listen again."""
        await self._control(pb.Control(channels=channels, resume=pb.Resume()))

    async def _control(self, control: pb.Control) -> None:
        await self._write(pb.StreamClassifyRequest(control=control))

    async def end_of_audio(self) -> None:
        """Half-close: final predictions follow."""
        await self._stream.done_writing()

    async def __aiter__(self) -> AsyncGenerator[Event]:
        while True:
            response = await self._read()
            if response is None:
                return
            event = self._event(response)
            if event is not None:
                yield event

    def _event(self, response: pb.StreamClassifyResponse) -> Event | None:
        kind = response.WhichOneof("message")
        if kind == "speech":
            speech = response.speech
            return SpeechEvent(speech.channel, speech.started, _seconds(speech.audio_time))
        if kind != "prediction":
            return None  # of a newer server
        p, s = response.prediction, self.started
        return Prediction(
            channel=p.channel,
            sequence=p.sequence,
            audio_time=_seconds(p.audio_time),
            speech_time=_seconds(p.speech_time),
            lost_time=_seconds(p.lost_time),
            gender=_task(p.gender, s.gender.labels),
            age_group=_task(p.age_group, s.age_group.labels),
            age_band=_task(p.age_band, s.age_band.labels),
            final=p.final,
        )

    async def finish(self) -> list[Prediction]:
        """Half-close and return the final prediction of every classified channel."""
        await self.end_of_audio()
        finals = [e async for e in self if isinstance(e, Prediction) and e.final]
        return sorted(finals, key=lambda prediction: prediction.channel)


class Client:
    """A connection to a server, shared by many calls.

    Args:
        target: HOST:PORT.
        credentials: of a connection by TLS, see :func:`streamer.client.tls`; None is plaintext.
        token: shown at every call, for a server that asks for one. Whoever listens in on a
            plaintext connection has it.

    Raises:
        ValueError: the token is none.
    """

    def __init__(
        self, target: str, credentials: grpc.ChannelCredentials | None = None, token: str = ""
    ) -> None:
        self._headers = bearer(token)
        # Without these a call that is silent for long loses its connection unnoticed.
        options = (("grpc.keepalive_time_ms", 30_000), ("grpc.keepalive_timeout_ms", 20_000))
        self._channel = (
            grpc.aio.insecure_channel(target, options)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, options)
        )
        self._stub: pb_grpc.ClassifierServiceAsyncStub = pb_grpc.ClassifierServiceStub(
            self._channel
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()

    def call(
        self,
        *,
        encoding: Literal["mulaw", "alaw", "linear16"] = "mulaw",
        sample_rate: int = 8000,
        channels: Sequence[Role] = ("caller",),
        call_id: str = "",
        update_seconds: float | None = None,
        min_speech_seconds: float | None = None,
        speech_events: bool = False,
    ) -> Call:
        """A call; enter it with ``async with``. Arguments as in the protocol's StreamConfig."""
        roles = {
            "caller": pb.CHANNEL_ROLE_CALLER,
            "agent": pb.CHANNEL_ROLE_AGENT,
            "unspecified": pb.CHANNEL_ROLE_UNSPECIFIED,
            "ignored": pb.CHANNEL_ROLE_UNSPECIFIED,
        }
        config = pb.StreamConfig(
            call_id=call_id,
            encoding=pb.AudioEncoding.Value(f"AUDIO_ENCODING_{encoding.upper()}"),
            sample_rate=sample_rate,
            channels=[
                pb.ChannelConfig(role=roles[role], ignored=role == "ignored") for role in channels
            ],
            speech_events=speech_events,
        )
        if update_seconds is not None:
            config.update_interval.FromNanoseconds(round(update_seconds * 1e9))
        if min_speech_seconds is not None:
            config.min_speech.FromNanoseconds(round(min_speech_seconds * 1e9))
        return Call(self._stub, config, self._headers)
