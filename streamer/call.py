"""One call between its stream and its session: what arrives, what waits to be sent, how it ends."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from streamer import messages
from streamer.channel import Update
from streamer.errors import (
    CallError,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
)
from streamer.models import ServedModel
from streamer.operation.load import AHEAD_SECONDS, Load
from streamer.operation.metrics import Heard, Metrics
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session import CallConfig, CallSession

MAX_BACKLOG = 32
"""Blocks (5 s of speech) that may wait for the student before the call's stream is not read."""
MAX_UNSENT_EVENTS = 1000
"""Speech events that a slow reader may leave unread; predictions replace each other instead."""

Response = pb.StreamClassifyResponse


class Call:
    """The listener of one session.

    Args:
        config: validated.
        model: that answers throughout.
        clock: seconds, monotonic.
        metrics: told of final predictions.
        load: of the server; told of audio, and says how often predictions may come.
        identity: of the caller, for the log.
    """

    def __init__(
        self,
        config: CallConfig,
        model: ServedModel,
        clock: Callable[[], float],
        metrics: Metrics,
        load: Load,
        identity: str = "",
    ) -> None:
        self.config = config
        self.identity = identity
        self.counted = Heard()
        self._metrics = metrics
        self.model = model
        self.session = CallSession(config, model.engine, self, load)
        self.messages = 0
        self._load = load
        self.last_message = self.began = clock()
        self.over_since: float | None = None
        """When nothing more was to be read; what is queued is still being sent."""
        self._clock = clock
        self._unsent: deque[Response | Update] = deque()
        self._something_unsent = asyncio.Event()
        self._progress = asyncio.Event()
        self._no_more = self._closed = False
        self._failure: CallError | None = None
        self.stopped: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        """Resolves to the reason when the call must end from this side."""
        self.given_up: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        """Resolves to the reason when a call that is over must not wait any longer."""

    # --- told by the session ---

    def updated(self, update: Update) -> None:
        """Queue a prediction in place of an unsent older one of its channel."""
        for index, waiting in enumerate(self._unsent):
            if isinstance(waiting, Update) and waiting.channel == update.channel:
                del self._unsent[index]
                break
        self.say(update)
        self._progress.set()

    def spoke(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Queue a speech event."""
        if len(self._unsent) > MAX_UNSENT_EVENTS:
            self.stop(
                LimitExceeded(
                    "unread responses", len(self._unsent), MAX_UNSENT_EVENTS, reason="unread"
                )
            )
        self.say(messages.speech_event(channel, started, audio_seconds))

    def progressed(self) -> None:
        """Let the reader go on."""
        self._progress.set()

    def failed(self, error: CallError) -> None:
        """End the call; nothing more comes from the engine."""
        self._failure = error
        self._progress.set()
        self.stop(error)

    # --- told by the service ---

    def stop(self, reason: CallError) -> None:
        """End the call with ``reason`` as soon as its stream can be left."""
        if not self.stopped.done():
            self.stopped.set_result(reason)

    def over(self) -> None:
        """Nothing more is read."""
        self.over_since = self._clock()

    def give_up(self, reason: CallError) -> None:
        """Wait no longer for the last predictions, or for the gateway to read them."""
        if not self.given_up.done():
            self.given_up.set_result(reason)

    def ahead(self, now: float) -> bool:
        """Whether it streams a file: it has sent more audio than it is old."""
        return self.session.audio_seconds - (now - self.began) > AHEAD_SECONDS

    def lag(self, now: float) -> float:
        """Seconds that its oldest audio has waited for the student, to the second."""
        return 0.0 if self._closed else self.session.lag(now)

    def say(self, item: Response | Update) -> None:
        """Queue a response; :meth:`write_all` sends it when the gateway reads."""
        self._unsent.append(item)
        self._something_unsent.set()

    def handle(self, request: pb.StreamClassifyRequest) -> bool:
        """One message after the config; True when it finished the call."""
        self.messages += 1
        self.last_message = self._clock()
        kind = request.WhichOneof("message")
        if kind == "audio":
            audio = request.audio
            start = audio.start_sample if audio.HasField("start_sample") else None
            seconds = self.session.audio(audio.sequence, audio.data, start)
            age = self.last_message - self.began
            self._load.heard(seconds, self.session.audio_seconds - age)
            return False
        if kind == "control":
            return self._control(request.control)
        if kind == "config":
            raise FailedPrecondition("config", "only the first message of a stream may be a config")
        raise InvalidArgument("message", "empty", "send config, audio or control")

    def _control(self, control: pb.Control) -> bool:
        action = control.WhichOneof("action")
        if action == "discard":
            self.session.discard(control.channels)
        elif action in {"hold", "resume"}:
            self.session.hold(control.channels, held=action == "hold")
        elif action == "finish":
            if control.channels:
                raise InvalidArgument(
                    "control.channels", list(control.channels), "finish ends the whole call"
                )
            return True
        else:
            raise InvalidArgument("control.action", "empty", "discard, hold, resume or finish")
        return False

    async def read_all(
        self, read: Callable[[], Awaitable[pb.StreamClassifyRequest | None]]
    ) -> None:
        """Feed the session until the call is finished or half-closed (``read`` gives None)."""
        while (request := await read()) is not None:
            if self.handle(request):
                return
            while self.session.backlog > MAX_BACKLOG:
                self._progress.clear()
                await self._progress.wait()

    async def finish(self) -> None:
        """Flush the session and wait until every final prediction is queued.

        Raises:
            CallError: the student failed on this call.
        """
        if not self.session.finishing:
            self.session.finish()
        while not self.session.done:
            if self._failure is not None:
                raise self._failure
            self._progress.clear()
            await self._progress.wait()

    async def write_all(self, write: Callable[[Response], Awaitable[None]]) -> None:
        """Send what is queued until :meth:`no_more_responses`."""
        while not self._no_more:
            await self._something_unsent.wait()
            self._something_unsent.clear()
            while self._unsent:
                item = self._unsent.popleft()
                if isinstance(item, Update):
                    # Made into a message only now: an overtaken update would be wasted work.
                    item = messages.prediction(
                        item, self.model.decider, self.config.min_speech_seconds
                    )
                    if item.prediction.final:
                        self._metrics.decided(item.prediction)
                await write(item)

    def no_more_responses(self) -> None:
        """Let :meth:`write_all` return once everything queued is sent."""
        self._no_more = True
        self._something_unsent.set()

    def close(self) -> None:
        """Leave the engine."""
        self._closed = True
        self.session.close()
