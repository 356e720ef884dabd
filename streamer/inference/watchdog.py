"""Looks after the engines ten times a second, and sees to it that health tells the truth."""

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
from streamer.inference.self_test import AGREEMENT, made_up_block
from streamer.observability.metrics import Metrics

log = structlog.get_logger()

LOOK_SECONDS = 0.1
"""Between two looks."""


class Watchdog:
    """Has stuck engines replaced and unused models retired, probes, and passes on what it sees.

    Args:
        models: whose engines are looked after; health is that of the current one.
        metrics: told of health.
        tell: told, too, whether the server is healthy, whenever that changes.
        give_up: called once when the server has not been healthy for ``exit_seconds``.
        exit_seconds: 0 never gives up.
    """

    def __init__(
        self,
        models: ModelRegistry,
        metrics: Metrics,
        tell: Callable[[bool], Awaitable[None]],
        give_up: Callable[[], None],
        exit_seconds: float = 0.0,
    ) -> None:
        self._models = models
        self._metrics = metrics
        self._tell = tell
        self._give_up = give_up
        self._exit_seconds = exit_seconds
        self._gave_up = False
        self._said = ""
        self._probe: tuple[Engine, InferenceStream] | None = None

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            try:
                await self.look()
            except Exception:  # it must look again in any case
                log.exception("watchdog_failed")
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """One look; on the event loop's thread."""
        for model in self._models.loaded:
            model.engine.watch()
        self._models.retire()
        engine = self._models.current.engine
        await self._pass_on(engine.health.reason)
        if engine.health.probe_due():
            self._send_probe(engine)
        ill = engine.health.unhealthy_seconds
        if self._exit_seconds and ill >= self._exit_seconds and not self._gave_up:
            self._gave_up = True
            log.error("unhealthy_exit", reason=engine.health.reason, seconds=round(ill, 1))
            self._give_up()

    async def _pass_on(self, reason: str) -> None:
        if reason == self._said:
            return
        if reason:
            log.error("unhealthy", reason=reason)
        else:
            log.info("healthy", before=self._said)
        changed = bool(reason) is not bool(self._said)
        self._said = reason
        if changed:
            self._metrics.healthy(not reason)
            await self._tell(not reason)

    def _send_probe(self, engine: Engine) -> None:
        """A block through the engine like that of a call; one at a time."""
        if self._probe is not None and self._probe[0] is engine:
            return

        def answered(result: Posteriors | CallError) -> None:
            engine.close_stream(stream)
            self._probe = None
            if isinstance(result, CallError):
                log.debug("probe_failed", reason=str(result))
            elif all(abs(sum(posterior) - 1.0) <= AGREEMENT for posterior in result):
                engine.health.mark_healthy()

        stream = engine.new_stream(answered)
        self._probe = (engine, stream)
        block = made_up_block(engine.model.metadata.block)
        engine.submit(stream, np.rint(block * 32767).astype(np.int16))
