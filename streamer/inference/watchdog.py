"""Supervises the engines ten times a second and reports the server's health."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import structlog

from streamer.errors import CallError
from streamer.inference.batch import Posteriors
from streamer.inference.engine import Engine
from streamer.inference.queues import InferenceStream
from streamer.inference.registry import ModelRegistry
from streamer.inference.self_test import TOLERANCE, synthetic_voice
from streamer.observability.metrics import Metrics

log = structlog.get_logger()

CHECK_INTERVAL_SECONDS = 0.1


class Watchdog:
    """Replaces stuck engines, retires unused models, probes an unhealthy model, reports health.

    Args:
        models: whose engines are supervised; the server's health is that of the current model.
        metrics: receives the health.
        on_health_change: called with the new health.
        on_exit: called once, when the server has been unhealthy for ``exit_seconds``.
        exit_seconds: 0 for never.
    """

    def __init__(
        self,
        models: ModelRegistry,
        metrics: Metrics,
        on_health_change: Callable[[bool], Awaitable[None]],
        on_exit: Callable[[], None],
        exit_seconds: float = 0.0,
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._on_health_change = on_health_change
        self._on_exit = on_exit
        self._exit_seconds = exit_seconds
        self._exiting = False
        self._reported_reason = ""
        self._probe: tuple[Engine, InferenceStream] | None = None

    async def run(self) -> None:
        """Check until cancelled."""
        while True:
            try:
                await self.check()
            except Exception:  # the next check must follow in any case
                log.exception("watchdog_failed")
            await asyncio.sleep(CHECK_INTERVAL_SECONDS)

    async def check(self) -> None:
        """Check all engines once; on the event loop's thread."""
        for model in self._models.loaded:
            model.engine.watch()
        self._models.retire()
        engine = self._models.current.engine
        await self._report(engine.health.reason)
        if engine.health.probe_due():
            self._send_probe(engine)
        seconds = engine.health.unhealthy_seconds
        if self._exit_seconds and seconds >= self._exit_seconds and not self._exiting:
            self._exiting = True
            log.error("unhealthy_exit", reason=engine.health.reason, seconds=round(seconds, 1))
            self._on_exit()

    async def _report(self, reason: str) -> None:
        """Report a changed reason; empty is healthy."""
        if reason == self._reported_reason:
            return
        if reason:
            log.error("unhealthy", reason=reason)
        else:
            log.info("healthy", before=self._reported_reason)
        changed = bool(reason) is not bool(self._reported_reason)
        self._reported_reason = reason
        if changed:
            self._metrics.set_healthy(not reason)
            await self._on_health_change(not reason)

    def _send_probe(self, engine: Engine) -> None:
        """Send a block through the engine like that of a call; one probe at a time."""
        if self._probe is not None and self._probe[0] is engine:
            return

        def on_step(result: Posteriors | CallError) -> None:
            engine.close_stream(stream)
            self._probe = None
            if isinstance(result, CallError):
                log.debug("probe_failed", reason=str(result))
            elif all(abs(sum(posterior) - 1.0) <= TOLERANCE for posterior in result):
                engine.health.mark_healthy()

        stream = engine.new_stream(on_step)
        self._probe = (engine, stream)
        block = synthetic_voice()[: engine.model.metadata.block]
        engine.submit(stream, np.rint(block * 32767).astype(np.int16))
