"""Client API: a connection and its calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import grpc
from google.protobuf.duration_pb2 import Duration

from streamer.client.credentials import bearer
from streamer.client.replay_buffer import ReplayBuffer
from streamer.client.resumable import ResumableStream
from streamer.client.retry import RetryPolicy
from streamer.client.stream import CallStream, Stream
from streamer.client.trunk import Trunks
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

Role = Literal["caller", "agent", "unspecified", "ignored"]


@dataclass(frozen=True)
class Task:
    """Result of one task; while undecided ``label`` is empty and ``undecided`` holds the reason."""

    posterior: dict[str, float]
    label: str
    confidence: float
    undecided: str


@dataclass(frozen=True)
class Prediction:
    """Result for the speaker of one channel; times in seconds."""

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
    """Start or end of speech; seconds since the start of the call."""

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

    Send audio by :meth:`send`; iterate over the call for its events, or get the final predictions
    from :meth:`finish`. Errors of the server are raised as ``grpc.aio.AioRpcError``; ``code()`` and
    ``details()`` give status and reason.
    """

    def __init__(self, stream: CallStream, config: pb.StreamConfig) -> None:
        self._stream = stream
        self._config = config
        self._sequence = 0
        self.started = pb.Started()
        """The server's response to the config: model, labels, limits."""

    @property
    def resumptions(self) -> int:
        """Number of times the call was resumed on another stream; 0 if not resumable."""
        return self._stream.resumptions if isinstance(self._stream, ResumableStream) else 0

    async def __aenter__(self) -> Self:
        try:
            self.started = await self._stream.start(self._config)
        except BaseException:
            await self._stream.close()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._stream.close()

    async def send(
        self, data: bytes, *, lost_before: int = 0, start_sample: int | None = None
    ) -> int:
        """Send whole samples of every channel; return the sequence number of the message.

        Args:
            data: audio in the encoding of the config; 100 to 200 ms a message is economical.
            lost_before: messages of this size that never reached the gateway.
            start_sample: media time of the first sample, if the gateway knows it (RTP).
        """
        self._sequence += 1 + lost_before
        sequence = self._sequence
        audio = pb.Audio(sequence=sequence, data=data, start_sample=start_sample)
        await self._stream.write(pb.StreamClassifyRequest(audio=audio))
        return sequence

    async def discard(self, *channels: int) -> None:
        """Discard state: another person speaks from now on (all channels if none is given)."""
        await self._control(pb.Control(channels=channels, discard=pb.Discard()))

    async def hold(self, *channels: int) -> None:
        """Stop classification, for example during music on hold."""
        await self._control(pb.Control(channels=channels, hold=pb.Hold()))

    async def resume(self, *channels: int) -> None:
        """Resume classification after a hold."""
        await self._control(pb.Control(channels=channels, resume=pb.Resume()))

    async def _control(self, control: pb.Control) -> None:
        await self._stream.write(pb.StreamClassifyRequest(control=control))

    async def end_of_audio(self) -> None:
        """Half-close: final predictions follow."""
        await self._stream.half_close()

    async def __aiter__(self) -> AsyncGenerator[Event]:
        while True:
            response = await self._stream.read()
            if response is None:
                return
            event = self._event(response)
            if event is not None:
                yield event

    def _event(self, response: pb.StreamClassifyResponse) -> Event | None:
        kind = response.WhichOneof("message")
        if kind == "started":  # from the server that resumed the call
            self.started = response.started
            return None
        if kind == "speech":
            speech = response.speech
            return SpeechEvent(speech.channel, speech.started, _seconds(speech.audio_time))
        if kind != "prediction":
            return None  # a message type of a newer server
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


OPTIONS = (
    # Keepalive detects a lost connection within 20 s, also on a silent call. The server closes
    # connections with pings less than 10 s apart.
    ("grpc.keepalive_time_ms", 12_000),
    ("grpc.keepalive_timeout_ms", 8_000),
    ("grpc.http2.ping_timeout_ms", 8_000),  # used by gRPC 1.85, default 60 s
    ("grpc.http2.max_pings_without_data", 0),
    # By default gRPC waits 1 s to 2 minutes before it reconnects, and 20 s for a host that does
    # not respond: too long for a resumable call. One connection serves all calls, so frequent
    # attempts are cheap.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # also the limit of one attempt
    # By default all calls go to the first address that listens, even if that server is shutting
    # down and refuses them.
    ("grpc.lb_policy_name", "round_robin"),
    # By default all clients of a process share one connection, and so one worker of a server.
    ("grpc.use_local_subchannel_pool", 1),
)


class Client:
    """A connection to a server, shared by many calls.

    Args:
        target: HOST:PORT; or several addresses, among which calls are spread and resumed:
            ``ipv4:10.0.0.1:50051,10.0.0.2:50051``, or ``dns:///NAME:PORT`` of a name with several.
        credentials: TLS credentials, see :func:`streamer.client.tls`; None for plaintext.
        token: sent with every call, for a server that requires one; readable on a plaintext
            connection.
        trunks: number of streams that all calls share in turn; 0 gives each call its own stream.
            With hundreds of calls trunks take half of the CPU in the client and 0.7 of it in the
            server, and add up to 10 ms. A trunk stays on one server: use as many trunks as the
            target has servers. It stays on the worker of its connection: use as many clients as
            the server has workers.

    Raises:
        ValueError: the token is not valid, or the number of trunks is negative.
    """

    def __init__(
        self,
        target: str,
        credentials: grpc.ChannelCredentials | None = None,
        token: str = "",
        *,
        trunks: int = 0,
    ) -> None:
        if trunks < 0:
            raise ValueError(f"trunks: {trunks} is negative")
        self._headers = bearer(token)
        self._channel = (
            grpc.aio.insecure_channel(target, OPTIONS)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, OPTIONS)
        )
        self._stub: pb_grpc.ClassifierServiceAsyncStub = pb_grpc.ClassifierServiceStub(
            self._channel
        )
        self._trunks = Trunks(self._channel, self._headers, trunks) if trunks else None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._trunks is not None:
            await self._trunks.close()
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
        resumable: bool = False,
        checkpoint_seconds: float = 5.0,
        resume_seconds: float = 60.0,
    ) -> Call:
        """Create a call; enter it with ``async with``. Arguments as in the protocol's StreamConfig.

        A resumable call survives its server: if the stream breaks or a server is full, the call
        resumes on another server with the same results. The servers need checkpoint keys; others
        respond with FAILED_PRECONDITION. Two checkpoints are at least ``checkpoint_seconds``
        (1 to 600) of audio apart. After ``resume_seconds`` without a server the call fails with
        the first error, whose details hold the number of attempts. The client buffers the audio
        since the last checkpoint, at most ``2 * checkpoint_seconds + resume_seconds`` (half a
        megabyte of mu-law by default, usually a tenth of that); beyond, ``send`` waits.
        """
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
        if not resumable:
            return Call(self._open_stream(), config)
        config.checkpoint_interval.FromNanoseconds(round(checkpoint_seconds * 1e9))
        sample_bytes = (2 if encoding == "linear16" else 1) * max(1, len(channels))
        seconds = 2 * checkpoint_seconds + resume_seconds
        buffer = ReplayBuffer(round(seconds * sample_rate * sample_bytes))
        retry = RetryPolicy(resume_seconds)
        return Call(ResumableStream(self._open_stream, buffer, retry), config)

    def _open_stream(self) -> CallStream:
        if self._trunks is not None:
            return self._trunks.open()
        return Stream(self._stub.StreamClassify(metadata=self._headers))
