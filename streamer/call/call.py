"""One call between its stream and its session: requests in, responses out, and why it ends."""

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
from streamer.transport import converters
from streamer.transport.stream import Stream

BACKLOG_SECONDS = 5.0
"""Speech, over all channels, that may wait for inference before the call's stream is not read."""
AHEAD_SECONDS = 0.5
"""A call that has sent more audio than its age, and this besides, streams a file."""
ACTIVE_SECONDS = 1.0
"""A call that has sent nothing for so long is held, or silent and suppressed."""
MAX_UNSENT_EVENTS = 1000
"""Speech events that a slow gateway may leave unread; predictions replace each other instead."""


class Call:
    """One call; the listener of its session.

    Args:
        config: validated.
        model: used throughout.
        clock: seconds, monotonic.
        metrics: counts final predictions.
        load: of the server; counts audio and sets the update interval.
        identity: of the caller, for the log.
        checkpoint_schedule: if the call requested checkpoints.
        resumed: the checkpoint that it continues from.
        trace: records the course of the call.

    Attributes:
        totals: what metrics have counted of it.
        messages: received after the config.
        last_message: time of the last one.
        started_at: time at which the call started; earlier elsewhere if it is resumed.
        reading_stopped_at: time since which nothing more is read; None before.
        stopped: resolves to the reason when the call must end from the server's side.
        wait_aborted: resolves to the reason when a call that ends must not wait any longer.

    Raises:
        InvalidArgument: no call of this config and model can have been in the state to resume.
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
        checkpoint_schedule: CheckpointSchedule | None = None,
        resumed: Resumed | None = None,
        trace: CallTrace = NO_TRACE,
    ) -> None:
        self.config = config
        self.identity = identity
        self.model = model
        self.checkpoint_schedule = checkpoint_schedule
        self.session = CallSession(config, model.engine, self, load.interval_factor)
        self._max_backlog = round(BACKLOG_SECONDS / model.metadata.block_seconds)
        self._load = load
        self._trace = trace
        self._clock = clock
        self.totals = ReportedTotals()
        self.messages = 0
        self.last_message = self.started_at = clock()
        self._active_until = self.started_at
        self.reading_stopped_at: float | None = None
        self.responses = ResponseWriter(
            model.decider, config.min_speech_seconds, checkpoint_schedule, metrics, trace, clock
        )
        self._progress = asyncio.Event()
        self._closed = self._migrating = self._migrated = False
        self._failure: CallError | None = None
        loop = asyncio.get_running_loop()
        self.stopped: asyncio.Future[CallError] = loop.create_future()
        self.wait_aborted: asyncio.Future[CallError] = loop.create_future()
        self.resumed = resumed is not None
        if resumed is not None:
            self._restore(resumed)

    # --- notified by the session ---

    def on_prediction(self, update: Update) -> None:
        """Send a prediction in place of an unsent older one of its channel."""
        self.send(update)
        self._progress.set()

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        """Send a speech event."""
        if len(self.responses.queue) > MAX_UNSENT_EVENTS:
            self.stop(
                LimitExceeded(
                    "unread responses",
                    len(self.responses.queue),
                    MAX_UNSENT_EVENTS,
                    reason="unread",
                )
            )
        self.send(converters.speech_event(channel, started, audio_seconds))

    def on_progress(self) -> None:
        """Continue reading if the backlog was too long."""
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
        # Audio before the checkpoint was counted by the other server. The call is as old as it is
        # long, but for the time that it was without a server: it may send that much faster.
        self.totals = ReportedTotals.of(session)
        self.started_at -= session.audio_seconds + resumed.age

    def request_checkpoint(self) -> None:
        """Send a checkpoint of all that was received, as soon as inference has reached it.

        One at a time: newer requests that replaced it could keep any from ever being made.
        """
        if self.checkpoint_schedule is None or self._migrating or not self.session.begun:
            return
        if not self.session.snapshot_pending:
            self.checkpoint_schedule.requested(self.session.audio_seconds)
            self.session.snapshot(self._send_checkpoint)

    def _request_checkpoint_if_due(self) -> None:
        schedule = self.checkpoint_schedule
        if schedule is not None and schedule.due(self.session.audio_seconds):
            self.request_checkpoint()

    def _send_checkpoint(self, state: CallState) -> None:
        self.send(state)
        self._request_checkpoint_if_due()  # inference may have taken long to reach this one

    def migrate(self) -> None:
        """Read no more, send a last checkpoint and nothing after it, then end with UNAVAILABLE.

        A call without audio ends at once: there is nothing to resume.
        """
        if self._migrating or self.session.finishing:
            return
        self._migrating = True
        if self.session.begun:
            self.session.snapshot(self._complete_migration)
        else:
            self.stop(Moved())

    def _complete_migration(self, state: CallState) -> None:
        self._send_checkpoint(state)
        self._migrated = True
        self.stop(Moved())

    # --- used by the service ---

    def stop(self, reason: CallError) -> None:
        """End the call with ``reason`` as soon as its stream can be left."""
        if not self.stopped.done():
            self.stopped.set_result(reason)

    def stop_reading(self) -> None:
        """Note that nothing more is read."""
        self.reading_stopped_at = self._clock()

    def abort_wait(self, reason: CallError) -> None:
        """Wait no longer for the last predictions, or for the gateway to read them."""
        if not self.wait_aborted.done():
            self.wait_aborted.set_result(reason)

    def active(self, now: float) -> bool:
        """Whether audio is arriving."""
        return self._active_until > now

    def ahead(self, now: float) -> bool:
        """Whether the call streams a file: it has sent more audio than its age."""
        return self.session.audio_seconds - (now - self.started_at) > AHEAD_SECONDS

    def lag(self, now: float) -> float:
        """Seconds that its oldest audio has waited for inference, to the second."""
        return 0.0 if self._closed else self.session.lag(now)

    def send(self, item: Item) -> None:
        """Send a response when the gateway reads."""
        if not self._migrated:  # else the server that resumes the call sends it
            self.responses.send(item)

    def handle(self, request: pb.StreamClassifyRequest) -> bool:
        """Process one message after the config; True if it finishes the call."""
        kind = request.WhichOneof("message")
        if kind == "audio":
            self.receive_audio(request.audio)
            return False
        self.messages += 1
        self.last_message = self._clock()
        if kind == "control":
            return self._control(request.control)
        if kind == "config":
            raise FailedPrecondition("config", "only the first message of a stream may be a config")
        raise InvalidArgument("message", "empty", "send config, audio or control")

    def receive_audio(self, audio: pb.Audio) -> None:
        """Process one audio message."""
        self.messages += 1
        self.last_message = now = self._clock()
        start = audio.start_sample if audio.HasField("start_sample") else None
        seconds = self.session.audio(audio.sequence, audio.data, start, now)
        self._load.audio_seconds += seconds
        self._active_until = now + (seconds if seconds > ACTIVE_SECONDS else ACTIVE_SECONDS)
        if self.checkpoint_schedule is not None:
            self._request_checkpoint_if_due()

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

    async def receive_all(self, stream: Stream) -> None:
        """Process requests until the call is finished or half-closed."""
        stream.set_audio_handler(self._receive_audio_now)
        while (request := await stream.read()) is not None:
            if self._migrating:
                await self.stopped  # not processed here: the gateway sends it again elsewhere
                return
            if self.handle(request):
                return
            while self.session.backlog.blocks > self._max_backlog:
                self._progress.clear()
                await self._progress.wait()

    def _receive_audio_now(self, request: pb.StreamClassifyRequest) -> bool:
        """Process audio if the call is ready for it; other messages may have to wait."""
        if (
            self._migrating
            or request.WhichOneof("message") != "audio"
            or self.session.backlog.blocks > self._max_backlog
        ):
            return False
        self.receive_audio(request.audio)
        return True

    async def finish(self) -> None:
        """Flush the session and wait until every final prediction is queued.

        Raises:
            CallError: inference failed on this call.
        """
        if not self.session.finishing:
            self.session.finish()
        while not self.session.done:
            if self._failure is not None:
                raise self._failure
            self._progress.clear()
            await self._progress.wait()

    def close_responses(self) -> None:
        """Let the writer return once everything queued is written."""
        self.responses.queue.close()

    def close(self) -> None:
        """Leave the engine."""
        self._closed = True
        self.session.close()
