"""One call between its stream and its session: what arrives, what waits to be sent, how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from streamer.call.overload import Load
from streamer.call.responses import Item, ResponseWriter
from streamer.checkpoint.resumption import CheckpointSchedule
from streamer.checkpoint.serialization import Resumed
from streamer.errors import (
    CallError,
    FailedPrecondition,
    InvalidArgument,
    LimitExceeded,
    Moved,
)
from streamer.inference.registry import ServedModel
from streamer.observability.metrics import Metrics, ReportedTotals
from streamer.observability.tracing import NO_TRACE, CallTrace
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.session import CallConfig, CallSession
from streamer.session.state import CallState
from streamer.transport import converters as messages
from streamer.transport.stream import Stream

BACKLOG_SECONDS = 5.0
"""Speech, over all channels, that may wait for the student before the call's stream is not read."""
AHEAD_SECONDS = 0.5
"""A call that has sent more audio than it is old, and this besides, streams a file."""
ACTIVE_SECONDS = 1.0
"""A call that has sent nothing for so long is held, or silent and suppressed."""
MAX_UNSENT_EVENTS = 1000
"""Speech events that a slow reader may leave unread; predictions replace each other instead."""


class Call:
    """The listener of one session.

    Args:
        config: validated.
        model: that answers throughout.
        clock: seconds, monotonic.
        metrics: told of final predictions.
        load: of the server; told of audio, and says how often predictions may come.
        identity: of the caller, for the log.
        checkpoints: of its checkpoints, if it asked for them.
        resumed: what it goes on from.
        trace: told what becomes of the call.

    Raises:
        InvalidArgument: no call of this config and model can have been in the state to go on from.
    """

    def __init__(
        self,
        config: CallConfig,
        model: ServedModel,
        clock: Callable[[], float],
        metrics: Metrics,
        load: Load,
        *,
        identity: str = "",
        checkpoints: CheckpointSchedule | None = None,
        resumed: Resumed | None = None,
        trace: CallTrace = NO_TRACE,
    ) -> None:
        self.config = config
        self.identity = identity
        self.checkpoints = checkpoints
        self.counted = ReportedTotals()
        self._metrics = metrics
        self.model = model
        self.session = CallSession(config, model.engine, self, load.interval_factor)
        self._max_backlog = round(BACKLOG_SECONDS / model.metadata.block_seconds)
        self.messages = 0
        self._load = load
        self._trace = trace
        self.last_message = self.began = clock()
        self._active_until = self.began
        self.reading_stopped_at: float | None = None
        """When nothing more was to be read; what is queued is still being sent."""
        self._clock = clock
        self.responses = ResponseWriter(
            model.decider, config.min_speech_seconds, checkpoints, metrics, trace, clock
        )
        self._progress = asyncio.Event()
        self._closed = self._moving = self._moved = False
        self._failure: CallError | None = None
        self.stopped: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        """Resolves to the reason when the call must end from this side."""
        self.wait_aborted: asyncio.Future[CallError] = asyncio.get_running_loop().create_future()
        """Resolves to the reason when a call that is over must not wait any longer."""
        self.resumed = resumed is not None
        if resumed is not None:
            self._restore(resumed)

    # --- told by the session ---

    def on_prediction(self, update: Update) -> None:
        """Queue a prediction in place of an unsent older one of its channel."""
        self.say(update)
        self._progress.set()

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Queue a speech event."""
        if len(self.responses.queue) > MAX_UNSENT_EVENTS:
            self.stop(
                LimitExceeded(
                    "unread responses",
                    len(self.responses.queue),
                    MAX_UNSENT_EVENTS,
                    reason="unread",
                )
            )
        self.say(messages.speech_event(channel, started, audio_seconds))

    def on_progress(self) -> None:
        """Let the reader go on."""
        self._progress.set()

    def on_error(self, error: CallError) -> None:
        """End the call; nothing more comes from the engine."""
        self._failure = error
        self._progress.set()
        self.stop(error)

    # --- checkpoints ---

    def _restore(self, resumed: Resumed) -> None:
        session = self.session
        try:
            session.restore(resumed.state)
        except ValueError as error:
            raise InvalidArgument(
                "config.resume_from",
                "a checkpoint",
                f"it does not fit: {error}",
                reason="checkpoint",
            ) from error
        # What was heard elsewhere was counted there. The call is as old as it is long, but for
        # the time that it was without a server: that much it may catch up with.
        self.counted = ReportedTotals.of(session)
        self.began -= session.audio_seconds + resumed.age

    def request_checkpoint(self) -> None:
        """Send a checkpoint of what has come up to now, as soon as the student has heard it.

        One at a time: newer ones that replaced it on its way could keep any from ever being made.
        """
        if self.checkpoints is None or self._moving or not self.session.begun:
            return
        if not self.session.snapshot_pending:
            self.checkpoints.asked(self.session.audio_seconds)
            self.session.snapshot(self._remembered)

    def _remember_if_due(self) -> None:
        if self.checkpoints is not None and self.checkpoints.due(self.session.audio_seconds):
            self.request_checkpoint()

    def _remembered(self, state: CallState) -> None:
        """Queue a checkpoint in place of an unsent older one."""
        self.say(state)
        self._remember_if_due()  # the student may have been long about this one

    def migrate(self) -> None:
        """Read no more, send a last checkpoint, and nothing after it; then end with UNAVAILABLE.

        A call that has heard nothing yet ends at once: it has nothing to go on from.
        """
        if self._moving or self.session.finishing:
            return
        self._moving = True
        if self.session.begun:
            self.session.snapshot(self._left)
        else:
            self.stop(Moved())

    def _left(self, state: CallState) -> None:
        self._remembered(state)
        self._moved = True
        self.stop(Moved())

    # --- told by the service ---

    def stop(self, reason: CallError) -> None:
        """End the call with ``reason`` as soon as its stream can be left."""
        if not self.stopped.done():
            self.stopped.set_result(reason)

    def stop_reading(self) -> None:
        """Nothing more is read."""
        self.reading_stopped_at = self._clock()

    def abort_wait(self, reason: CallError) -> None:
        """Wait no longer for the last predictions, or for the gateway to read them."""
        if not self.wait_aborted.done():
            self.wait_aborted.set_result(reason)

    def active(self, now: float) -> bool:
        """Whether audio of it is coming."""
        return self._active_until > now

    def ahead(self, now: float) -> bool:
        """Whether it streams a file: it has sent more audio than it is old."""
        return self.session.audio_seconds - (now - self.began) > AHEAD_SECONDS

    def lag(self, now: float) -> float:
        """Seconds that its oldest audio has waited for the student, to the second."""
        return 0.0 if self._closed else self.session.lag(now)

    def say(self, item: Item) -> None:
        """Send a response when the gateway reads."""
        if not self._moved:  # else it is said again by the server that goes on
            self.responses.say(item)

    def handle(self, request: pb.StreamClassifyRequest) -> bool:
        """One message after the config; True when it finished the call."""
        kind = request.WhichOneof("message")
        if kind == "audio":
            self.hear(request.audio)
            return False
        self.messages += 1
        self.last_message = self._clock()
        if kind == "control":
            return self._control(request.control)
        if kind == "config":
            raise FailedPrecondition("config", "only the first message of a stream may be a config")
        raise InvalidArgument("message", "empty", "send config, audio or control")

    def hear(self, audio: pb.Audio) -> None:
        """One audio message."""
        self.messages += 1
        self.last_message = now = self._clock()
        start = audio.start_sample if audio.HasField("start_sample") else None
        seconds = self.session.audio(audio.sequence, audio.data, start, now)
        self._load.record_audio(seconds)
        self._active_until = now + (seconds if seconds > ACTIVE_SECONDS else ACTIVE_SECONDS)
        if self.checkpoints is not None:
            self._remember_if_due()

    def _control(self, control: pb.Control) -> bool:
        action = control.WhichOneof("action")
        if action == "discard":
            self.session.discard(control.channels)
            self._trace.changed(action, control.channels)
        elif action in {"hold", "resume"}:
            held = action == "hold"
            self.session.hold(control.channels, held=held)
            self._trace.changed("hold" if held else "resume", control.channels)
        elif action == "finish":
            if control.channels:
                raise InvalidArgument(
                    "control.channels", list(control.channels), "finish ends the whole call"
                )
            return True
        else:
            raise InvalidArgument("control.action", "empty", "discard, hold, resume or finish")
        return False

    async def read_all(self, stream: Stream) -> None:
        """Feed the session until the call is finished or half-closed."""
        stream.set_audio_handler(self._heard_at_once)
        while (request := await stream.read()) is not None:
            if self._moving:
                await self.stopped  # not heard here: it will come again, elsewhere
                return
            if self.handle(request):
                return
            while self.session.backlog.blocks > self._max_backlog:
                self._progress.clear()
                await self._progress.wait()

    def _heard_at_once(self, request: pb.StreamClassifyRequest) -> bool:
        """Hear audio unless something stands in its way; what is not audio may have to wait."""
        if (
            self._moving
            or request.WhichOneof("message") != "audio"
            or self.session.backlog.blocks > self._max_backlog
        ):
            return False
        self.hear(request.audio)
        return True

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

    def close_responses(self) -> None:
        """Let the responses return once everything queued is written."""
        self.responses.queue.complete()

    def close(self) -> None:
        """Leave the engine."""
        self._closed = True
        self.session.close()
