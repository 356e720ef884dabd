"""Set a call up: wait for the config of its stream, validate it, build the call."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable

import structlog

from streamer.call.admission import Policy
from streamer.call.call import Call
from streamer.call.overload import Load
from streamer.checkpoint.resumption import Resumption
from streamer.errors import CallError, ConfigTimeout, FailedPrecondition
from streamer.inference.registry import ModelRegistry
from streamer.observability.metrics import Metrics
from streamer.observability.tracing import CallTrace
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.identity import Caller
from streamer.transport import converters as messages


class PendingStreams:
    """Waits for the config of every stream, for so long.

    Args:
        timeout: seconds.
        clock: seconds, monotonic.
    """

    def __init__(self, timeout: float, clock: Callable[[], float]) -> None:
        self._timeout = timeout
        self._clock = clock
        self._since: dict[asyncio.Future[CallError], float] = {}

    def __len__(self) -> int:
        """Streams that wait."""
        return len(self._since)

    async def config(
        self, read: Callable[[], Awaitable[pb.StreamClassifyRequest | None]]
    ) -> pb.StreamConfig:
        """The first message of a stream that was opened just now.

        Raises:
            FailedPrecondition: it is no config, or the stream ended.
            CallError: what :meth:`sweep` or :meth:`stop` has to say.
        """
        stopped: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        self._since[stopped] = self._clock()
        reading = asyncio.ensure_future(read())
        try:
            await asyncio.wait((reading, stopped), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                raise stopped.result()
            first = reading.result()
        finally:
            del self._since[stopped]
            reading.cancel()
        if first is None:
            raise FailedPrecondition("config", "the stream ended before its first message")
        if first.WhichOneof("message") != "config":
            raise FailedPrecondition("config", "the first message of a stream must be the config")
        return first.config

    def sweep(self) -> None:
        """Turn away who has waited for too long; to be called once a second."""
        oldest = self._clock() - self._timeout
        for stopped, since in self._since.items():
            if since < oldest and not stopped.done():
                stopped.set_result(ConfigTimeout(self._timeout))

    def stop(self, reason: CallError) -> None:
        """Turn away all."""
        for stopped in self._since:
            if not stopped.done():
                stopped.set_result(reason)


log = structlog.get_logger()


class CallFactory:
    """Makes the calls of a server.

    Args:
        models: which student calls take.
        policy: limits.
        clock: seconds, monotonic.
        metrics: counts calls.
        load: of the server.
        resumption: of calls that ask for checkpoints; such calls are refused if it is None.
    """

    def __init__(
        self,
        models: ModelRegistry,
        policy: Policy,
        clock: Callable[[], float],
        metrics: Metrics,
        load: Load,
        *,
        resumption: Resumption | None,
    ) -> None:
        self._models = models
        self._policy = policy
        self._clock = clock
        self._metrics = metrics
        self._load = load
        self._resumption = resumption

    def begin(self, wanted: pb.StreamConfig, caller: Caller, trace: CallTrace) -> Call:
        """The call that a config asks for, on its model; a new one or one that goes on.

        Raises:
            CallError: the config is not acceptable, or the caller may not ask for it.
        """
        if wanted.call_id and messages.is_loggable(wanted.call_id):
            structlog.contextvars.bind_contextvars(call_id=wanted.call_id)
        if wanted.HasField("checkpoint_interval") or wanted.resume_from:
            caller.require_scope("resume")
        config = messages.call_config(
            wanted,
            update_seconds=self._policy.update_seconds,
            max_chunk_seconds=self._policy.max_chunk_seconds,
            checkpoints=self._resumption is not None,
        )
        model, resumed, checkpoints = self._models.current, None, None
        if self._resumption is not None:
            if wanted.resume_from:
                resumed, model = self._resumption.open(wanted, caller, self._models)
                config = dataclasses.replace(config, call_id=resumed.identity.call_id)
            checkpoints = self._resumption.checkpoints(config, wanted, caller, model, resumed)
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
            checkpoints=checkpoints,
            resumed=resumed,
            trace=trace,
        )
        self._models.acquire(model)
        if self._resumption is not None:
            self._resumption.began(call)
        return call

    def greet(self, call: Call) -> None:
        """Queue the first responses of a call."""
        call.say(
            messages.started(
                call.config,
                call.model.metadata,
                idle_timeout=self._policy.idle_timeout,
                checkpoints=self._resumption is not None,
            )
        )
        call.request_checkpoint()  # a call that goes on has something to remember
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
