"""Set a call up: wait for the config of its stream, validate it, build the call."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import structlog

from streamer.call.call import Call
from streamer.call.overload import Load
from streamer.checkpoint.resumption import Resumption
from streamer.errors import CallError, ConfigTimeout, FailedPrecondition
from streamer.inference.registry import ModelRegistry
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import CallTrace
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.identity import Caller
from streamer.settings import ServerSettings
from streamer.transport import converters

log = structlog.get_logger()


class PendingStreams:
    """Streams that are open and have not sent their config yet.

    Args:
        timeout: seconds that a stream may wait.
        clock: seconds, monotonic.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._since: dict[asyncio.Future[CallError], float] = {}

    def __len__(self) -> int:
        """Streams that wait."""
        return len(self._since)

    async def wait_for_config(
        self, read: Callable[[], Awaitable[pb.StreamClassifyRequest | None]]
    ) -> pb.StreamConfig:
        """Read the first message of a stream that was opened just now.

        Raises:
            FailedPrecondition: it is no config, or the stream ended.
            CallError: the reason of :meth:`expire` or :meth:`reject_all`.
        """
        rejected: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        self._since[rejected] = self._clock()
        reading = asyncio.ensure_future(read())
        try:
            await asyncio.wait((reading, rejected), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise rejected.result()
            first = reading.result()
        finally:
            del self._since[rejected]
            reading.cancel()
        if first is None:
            raise FailedPrecondition("config", "the stream ended before its first message")
        if first.WhichOneof("message") != "config":
            raise FailedPrecondition("config", "the first message of a stream must be the config")
        return first.config

    def expire(self) -> None:
        """Reject streams that have waited too long; to be called once a second."""
        oldest = self._clock() - self._timeout
        for rejected, since in self._since.items():
            if since < oldest and not rejected.done():
                rejected.set_result(ConfigTimeout(self._timeout))

    def reject_all(self, reason: CallError) -> None:
        """Reject every stream that waits."""
        for rejected in self._since:
            if not rejected.done():
                rejected.set_result(reason)


class CallFactory:
    """Builds the calls of a server.

    Args:
        models: that calls may use.
        settings: limits.
        clock: seconds, monotonic.
        metrics: counts calls.
        load: of the server.
        resumption: of calls that request checkpoints; such calls are refused if it is None.
    """

    def __init__(
        self,
        models: ModelRegistry,
        settings: ServerSettings,
        clock: Callable[[], float],
        metrics: Metrics,
        load: Load,
        *,
        resumption: Resumption | None,
    ) -> None:
        self._models = models
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._load = load
        self._resumption = resumption

    def create(self, requested: pb.StreamConfig, caller: Caller, trace: CallTrace) -> Call:
        """Build the call that a config requests: a new one, or one that resumes.

        Raises:
            CallError: the config is not valid, or the caller may not request it.
        """
        if requested.call_id and converters.is_loggable(requested.call_id):
            structlog.contextvars.bind_contextvars(call_id=requested.call_id)
        if requested.HasField("checkpoint_interval") or requested.resume_from:
            caller.require_scope("resume")
        config = converters.call_config(
            requested,
            update_seconds=self._settings.update_seconds,
            max_chunk_seconds=self._settings.max_chunk_seconds,
            checkpoints=self._resumption is not None,
        )
        model, resumed, schedule = self._models.current, None, None
        if self._resumption is not None:
            if requested.resume_from:
                resumed, model = self._resumption.open(requested, caller, self._models)
                config = dataclasses.replace(config, call_id=resumed.identity.call_id)
            schedule = self._resumption.schedule(config, requested, caller, model, resumed)
        structlog.contextvars.bind_contextvars(call_id=config.call_id)
        trace.accepted(
            config,
            config.encoding.name.lower(),
            model.metadata.model_id,
            resumed=resumed is not None,
        )
        call = Call(
            config,
            model,
            self._clock,
            self._metrics,
            self._load,
            identity=caller.identity,
            checkpoint_schedule=schedule,
            resumed=resumed,
            trace=trace,
        )
        self._models.acquire(model)
        if self._resumption is not None:
            self._resumption.register(call)
        return call

    def send_started(self, call: Call) -> None:
        """Queue the first responses of a call."""
        call.send(
            converters.started(
                call.config,
                call.model.metadata,
                idle_timeout=self._settings.idle_timeout,
                checkpoints=self._resumption is not None,
            )
        )
        call.request_checkpoint()  # a resumed call has a state already
        log.info(
            "call_started",
            call_id=call.config.call_id,
            identity=call.identity,
            encoding=call.config.encoding.name.lower(),
            sample_rate=call.config.sample_rate,
            channels=len(call.config.ignored),
            model=call.model.metadata.model_id,
            resumed=call.resumed,
        )
