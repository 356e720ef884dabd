"""The students in service, each with its engine and its rules of decision, and their succession."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from streamer.errors import ModelFileError
from streamer.inference.decision import Decider
from streamer.inference.engine import Engine
from streamer.inference.metadata import Metadata
from streamer.inference.model import OnnxModel, model_file
from streamer.inference.self_test import self_test
from streamer.observability.metrics import Metrics

log = structlog.get_logger()

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ServedModel:
    """One student as calls use it; a call keeps the one that it began with.

    Attributes:
        engine: owns the student.
        decider: its calibration and rules.
        digest: SHA-256 of its file, hexadecimal; empty if it came from none.
    """

    engine: Engine
    decider: Decider
    digest: str = ""

    @classmethod
    def of(cls, engine: Engine) -> ServedModel:
        """Everything that follows from an engine's student."""
        digest = getattr(engine.model, "digest", "")
        return cls(engine, Decider(engine.model.metadata), digest)

    @property
    def metadata(self) -> Metadata:
        """Of the student."""
        return self.engine.model.metadata

    @property
    def providers(self) -> list[str]:
        """Of ONNX Runtime, the first runs the student; none if the student is none of its."""
        student = self.engine.model
        return student.providers if isinstance(student, OnnxModel) else []

    @property
    def device(self) -> str:
        """Name of the GPU that runs the student, or "CPU"; empty as above."""
        student = self.engine.model
        return student.device if isinstance(student, OnnxModel) else ""

    def close(self) -> None:
        """Stop the engine and free the student; waits for a running step."""
        self.engine.stop()
        if isinstance(self.engine.model, OnnxModel):
            self.engine.model.close()


class Source(Protocol):
    """Where students come from."""

    def digest(self) -> str:
        """SHA-256 of what is there now, hexadecimal; raises ModelFileError."""

    def load(self) -> ServedModel:
        """What is there now, fit to be served; raises ModelFileError."""


@dataclass(frozen=True)
class ModelFile:
    """A path, and how what is found there is served. Any thread may load.

    Attributes:
        path: of the ONNX file; None is the shipped student that suits the provider.
        provider: see :class:`streamer.inference.model.OnnxModel`.
        threads: likewise.
        engine: makes the engine around a student.
    """

    path: Path | None
    provider: str
    threads: int
    engine: Callable[[OnnxModel], Engine]

    def digest(self) -> str:
        """See :class:`Source`."""
        path = model_file(self.path, self.provider)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelFileError(f"model file {path}: {error.strerror}") from error

    def load(self) -> ServedModel:
        """See :class:`Source`; streams a made-up call through the student first."""
        student = OnnxModel(self.path, provider=self.provider, threads=self.threads)
        self_test(student)
        engine = self.engine(student)
        try:
            engine.prepared.result()
        except Exception as error:  # of the runtime, or of memory
            engine.stop()
            model = student.metadata.model_id
            raise ModelFileError(f"{model}: its first steps: {error}") from error
        return ServedModel.of(engine)


class ModelRegistry:
    """Which student new calls take, and which ones older calls still have.

    To be used on the event loop's thread.

    Args:
        current: the first.
        source: of the next; without one there is none.
        metrics: told of every change.
        keep_seconds: how long a model stays after the last of its calls, for those that may be
            resumed from a checkpoint.
        clock: seconds, monotonic.

    Attributes:
        current: what new calls take.
    """

    def __init__(
        self,
        current: ServedModel,
        source: Source | None = None,
        *,
        metrics: Metrics | None = None,
        keep_seconds: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = current
        self._source = source
        self._metrics = metrics or Metrics()
        self._keep_seconds = keep_seconds
        self._clock = clock
        self._calls: dict[ServedModel, int] = {current: 0}
        self._unused_since: dict[ServedModel, float] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._reloading = asyncio.Lock()
        # One thread loads and frees: many would each keep memory for themselves.
        self._hands = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._describe(current)

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """All, the oldest first."""
        return tuple(self._calls)

    @property
    def queue_seconds(self) -> float:
        """Seconds that the oldest block of any engine has waited."""
        return max(model.engine.queue_seconds for model in self._calls)

    def flush(self) -> None:
        """Have all engines step what is queued, see :meth:`Engine.hurry`."""
        for model in self._calls:
            model.engine.flush()

    def by_digest(self, digest: str) -> ServedModel | None:
        """The model whose file has this SHA-256 (hexadecimal), while it is loaded."""
        return next((model for model in self._calls if model.digest == digest), None)

    def acquire(self, model: ServedModel) -> None:
        """A call takes ``model``; to be called without an ``await`` since it was looked up."""
        self._calls[model] += 1
        self._unused_since.pop(model, None)

    def release(self, model: ServedModel) -> None:
        """A call has left ``model``."""
        self._calls[model] -= 1
        self._look_at(model)

    def _look_at(self, model: ServedModel) -> None:
        if model is self.current or self._calls[model]:
            self._unused_since.pop(model, None)
        else:
            self._unused_since.setdefault(model, self._clock())

    async def reload(self) -> None:
        """Load what the source has now, for new calls; whatever cannot be served changes nothing.

        The event loop goes on meanwhile. Nothing is raised but CancelledError: the outcome is
        logged and counted.
        """
        async with self._reloading:
            before = self.current
            try:
                after = await self._next()
            except Exception as error:  # noqa: BLE001 - whatever a file does, calls have a model
                self._metrics.swapped("failed")
                log.error(  # noqa: TRY400 - one line says it
                    "model_reload_failed", model=before.metadata.model_id, reason=_one_line(error)
                )
                return
            if after is before:
                self._metrics.swapped("unchanged")
                log.info("model_unchanged", model=before.metadata.model_id, digest=before.digest)
                return
            self._calls.setdefault(after, 0)
            self.current = after
            for model in (before, after):
                self._look_at(model)
            self._describe(after)
            self._metrics.swapped("changed")
            log.info(
                "model_changed",
                before=before.metadata.model_id,
                after=after.metadata.model_id,
                digest=after.digest,
                calls_on_older=sum(n for model, n in self._calls.items() if model is not after),
            )

    def _describe(self, model: ServedModel) -> None:
        self._metrics.model(model.metadata.model_id, next(iter(model.providers), ""))

    async def _next(self) -> ServedModel:
        """One that is loaded already, if the source has that, or a new one."""
        if self._source is None:
            raise ModelFileError("this server has no model file")
        known = self.by_digest(await self._aside(self._source.digest))
        return known if known is not None else await self._aside(self._source.load)

    def _aside(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._hands, work)

    def retire(self) -> None:
        """Let go of models that nobody needs any more; to be called some times a second."""
        oldest = self._clock() - self._keep_seconds
        for model in [m for m, since in self._unused_since.items() if since <= oldest]:
            del self._unused_since[model]
            del self._calls[model]
            task = asyncio.create_task(self._close(model))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _close(self, model: ServedModel) -> None:
        try:
            await self._aside(model.close)
        except Exception:
            log.exception("model_not_retired", model=model.metadata.model_id)
        else:
            log.info("model_retired", model=model.metadata.model_id, digest=model.digest)

    async def stop(self) -> None:
        """Stop all engines."""
        await asyncio.gather(*self._retiring, *(self._aside(model.close) for model in self.loaded))
        self._hands.shutdown(wait=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
