"""Periodic work on all calls of a server: measure the load, enforce limits, drain."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from streamer.call.call import Call
from streamer.call.overload import CpuShare, Load
from streamer.call.setup import PendingStreams
from streamer.call.teardown import enforce_time_limits
from streamer.errors import CallError, Draining, Unhealthy
from streamer.inference.registry import ModelRegistry
from streamer.observability.metrics import Metrics
from streamer.security.identity import Identities
from streamer.settings import ServerSettings

log = structlog.get_logger()

MEASURE_SECONDS = 0.1
"""Between two measurements of how far the server is behind."""
MEASUREMENTS_PER_SWEEP = 10
END_SECONDS = 5.0
"""How long calls may take to end when the time to drain is over."""


class CallSupervisor:
    """Knows every stream and call of a server.

    Args:
        settings: limits.
        models: that calls use.
        pending: streams without a config.
        identities: of callers.
        metrics: counts calls and streams.
        clock: seconds, monotonic.

    Attributes:
        calls: that are open.
        load: of the server.
        open_streams: calls among them.
        draining: set when no more calls are accepted.
        status_deadlines: by which clients must read the status of their stream.
    """

    def __init__(
        self,
        settings: ServerSettings,
        models: ModelRegistry,
        pending: PendingStreams,
        identities: Identities,
        metrics: Metrics,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._models = models
        self._pending = pending
        self._identities = identities
        self._metrics = metrics
        self._clock = clock
        self.load = Load()
        self.calls: set[Call] = set()
        self.open_streams = 0
        self.status_deadlines: dict[asyncio.Timeout, float] = {}
        self.draining = asyncio.Event()
        self._empty = asyncio.Event()
        self._empty.set()

    def stream_opened(self) -> None:
        """Count a stream."""
        self.open_streams += 1
        self._metrics.stream_opened()
        self._empty.clear()

    def stream_closed(self) -> None:
        """Count the end of a stream."""
        self.open_streams -= 1
        self._metrics.stream_closed()
        if not self.open_streams:
            self._empty.set()

    def require_healthy(self) -> None:
        """Raise Draining or Unhealthy if no call can be accepted."""
        if self.draining.is_set():
            raise Draining
        health = self._models.current.engine.health
        if not health.healthy:
            raise Unhealthy(health.reason)

    def end_all(self, reason: CallError) -> None:
        """End every call at once, without its final predictions."""
        for call in self.calls:
            call.stop(reason)

    async def drain(self, seconds: float) -> None:
        """Refuse new calls, let running ones continue for ``seconds``, then finish them.

        Calls with checkpoints are sent to other servers, one after the other in the first half of
        that: all at once would be more than those can accept.
        """
        self.draining.set()
        self._metrics.set_draining()
        self._pending.reject_all(Draining())
        migrating = asyncio.create_task(self._migrate_all(seconds / 2))
        try:
            await asyncio.wait_for(self._empty.wait(), seconds)
        except TimeoutError:
            log.warning("drain_deadline", calls=self.open_streams)
            for call in list(self.calls):
                call.stop(Draining())
            await asyncio.wait({asyncio.create_task(self._empty.wait())}, timeout=END_SECONDS)
        finally:
            migrating.cancel()

    async def _migrate_all(self, seconds: float) -> None:
        calls = [call for call in self.calls if call.checkpoint_schedule is not None]
        for call in calls:
            call.migrate()
            await asyncio.sleep(seconds / len(calls))

    async def run(self) -> None:
        """Measure the load ten times a second, sweep once a second."""
        loop = asyncio.get_running_loop()
        share = CpuShare(self._settings.workers)
        while True:
            for _ in range(MEASUREMENTS_PER_SWEEP):
                before = loop.time()
                await asyncio.sleep(MEASURE_SECONDS)
                passed = loop.time() - before
                self.record_load(passed - MEASURE_SECONDS, share.since_last(), passed)
            try:
                self.sweep()
            except Exception:  # limits must hold tomorrow as well
                log.exception("sweep_failed")

    def record_load(self, late: float, busy: float, passed: float) -> None:
        """Add one measurement to the running averages.

        Args:
            late: seconds by which the event loop was late.
            busy: share of the CPU since the last measurement.
            passed: seconds since the last measurement.
        """
        now = self._clock()
        active = sum(call.active(now) for call in self.calls)
        self.load.record(max(late, self._models.queue_seconds), busy, passed, active)
        self._metrics.set_load(self.load.delay, self.load.demand)

    def sweep(self) -> None:
        """Count audio and enforce every limit of time; to be called once a second."""
        self._identities.refresh()
        self._pending.expire()
        now = self._clock()
        for limit, until in self.status_deadlines.items():
            if now >= until and not limit.expired():
                limit.reschedule(0.0)  # at once
        self._metrics.add_totals((call.session, call.totals) for call in self.calls)
        for call in self.calls:
            enforce_time_limits(self._settings, call, now)
            if call.checkpoint_schedule is not None and call.checkpoint_schedule.overdue:
                call.request_checkpoint()
