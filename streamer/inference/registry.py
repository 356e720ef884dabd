"""The models in service, each with its engine and decision rules, and their replacement."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

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
    """One model as calls use it; a call keeps the one that it began with.

    Attributes:
        engine: runs the model.
        decider: its calibration and decision rules.
    """

    engine: Engine
    decider: Decider

    @classmethod
    def of(cls, engine: Engine) -> ServedModel:
        """Return the served model of ``engine``, with the decision rules of its metadata."""
        return cls(engine, Decider(engine.model.metadata))

    @property
    def metadata(self) -> Metadata:
        """Metadata of the model file."""
        return self.engine.model.metadata

    @property
    def digest(self) -> str:
        """SHA-256 of the model file, hexadecimal."""
        return self.engine.model.digest

    @property
    def providers(self) -> list[str]:
        """Providers of ONNX Runtime; the first runs the model."""
        return self.engine.model.providers

    @property
    def device(self) -> str:
        """Name of the GPU that runs the model, or "CPU"."""
        return self.engine.model.device

    def close(self) -> None:
        """Stop the engine and free the model; waits for a running step."""
        self.engine.stop()
        self.engine.model.close()


@dataclass(frozen=True)
class ModelFile:
    """The path that models are loaded from, and how they are served. Thread-safe.

    Attributes:
        path: of the ONNX file; None is the shipped file for the provider.
        provider: see :class:`streamer.inference.model.OnnxModel`.
        threads: see there.
        new_engine: starts the engine of a model.
    """

    path: Path | None
    provider: str
    threads: int
    new_engine: Callable[[OnnxModel], Engine]

    def digest(self) -> str:
        """Return the SHA-256 of the file's present content, hexadecimal.

        Raises:
            ModelFileError: the file cannot be read.
        """
        path = model_file(self.path, self.provider)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise ModelFileError(f"model file {path}: {error.strerror}") from error

    def load(self) -> ServedModel:
        """Load the file's present content and test it with a made-up call.

        Raises:
            ModelFileError: it cannot be loaded, fails the test, or needs more memory than there is.
        """
        model = OnnxModel(self.path, provider=self.provider, threads=self.threads)
        self_test(model)
        engine = self.new_engine(model)
        try:
            engine.prepared.result()
        except Exception as error:  # of the runtime, or of memory
            engine.stop()
            raise ModelFileError(f"{model.metadata.model_id}: its first steps: {error}") from error
        return ServedModel.of(engine)


class ModelRegistry:
    """The model that new calls use, and those that older calls still use.

    Used on the event loop's thread only.

    Args:
        current: the first model.
        source: where the next models come from; None for no reload.
        metrics: receives every change.
        keep_seconds: how long a model stays after the last of its calls, for those that may be
            resumed from a checkpoint.
        clock: seconds, monotonic.

    Attributes:
        current: the model that new calls use.
    """

    def __init__(
        self,
        current: ServedModel,
        source: ModelFile | None = None,
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
        # One thread loads and frees: each thread of a larger pool would keep memory of its own.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="models")
        self._report(current)

    @property
    def loaded(self) -> tuple[ServedModel, ...]:
        """All loaded models, the oldest first."""
        return tuple(self._calls)

    @property
    def queue_seconds(self) -> float:
        """Seconds that the oldest queued block of any engine has waited."""
        return max(model.engine.queue_seconds for model in self._calls)

    def flush(self) -> None:
        """Flush all engines, see :meth:`streamer.inference.engine.Engine.flush`."""
        for model in self._calls:
            model.engine.flush()

    def by_digest(self, digest: str) -> ServedModel | None:
        """Return the loaded model whose file has this SHA-256 (hexadecimal), or None."""
        return next((model for model in self._calls if model.digest == digest), None)

    def acquire(self, model: ServedModel) -> None:
        """Count a call that uses ``model``; no ``await`` may lie between look-up and this."""
        self._calls[model] += 1
        self._unused_since.pop(model, None)

    def release(self, model: ServedModel) -> None:
        """Count that a call no longer uses ``model``."""
        self._calls[model] -= 1
        self._update_unused_since(model)

    def _update_unused_since(self, model: ServedModel) -> None:
        if model is self.current or self._calls[model]:
            self._unused_since.pop(model, None)
        else:
            self._unused_since.setdefault(model, self._clock())

    async def reload(self) -> None:
        """Load the file's present content for new calls; an error changes nothing.

        The event loop continues meanwhile. Raises nothing but CancelledError: the outcome is logged
        and counted.
        """
        async with self._reloading:
            before = self.current
            try:
                after = await self._load()
            except Exception as error:  # noqa: BLE001 - whatever the file causes, calls have a model
                self._metrics.record_model_reload("failed")
                log.error(  # noqa: TRY400 - one line, without traceback
                    "model_reload_failed", model=before.metadata.model_id, reason=_one_line(error)
                )
                return
            if after is before:
                self._metrics.record_model_reload("unchanged")
                log.info("model_unchanged", model=before.metadata.model_id, digest=before.digest)
                return
            self._calls.setdefault(after, 0)
            self.current = after
            for model in (before, after):
                self._update_unused_since(model)
            self._report(after)
            self._metrics.record_model_reload("changed")
            log.info(
                "model_changed",
                before=before.metadata.model_id,
                after=after.metadata.model_id,
                digest=after.digest,
                calls_on_older=sum(n for model, n in self._calls.items() if model is not after),
            )

    def _report(self, model: ServedModel) -> None:
        self._metrics.set_model(model.metadata.model_id, next(iter(model.providers), ""))

    async def _load(self) -> ServedModel:
        """Return the loaded model with the file's digest, or load the file."""
        if self._source is None:
            raise ModelFileError("this server has no model file")
        loaded = self.by_digest(await self._in_executor(self._source.digest))
        return loaded if loaded is not None else await self._in_executor(self._source.load)

    def _in_executor(self, work: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._executor, work)

    def retire(self) -> None:
        """Close models that have been unused for ``keep_seconds``; call it every 0.1 s or so."""
        oldest = self._clock() - self._keep_seconds
        for model in [m for m, since in self._unused_since.items() if since <= oldest]:
            del self._unused_since[model]
            del self._calls[model]
            task = asyncio.create_task(self._close(model))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def _close(self, model: ServedModel) -> None:
        try:
            await self._in_executor(model.close)
        except Exception:
            log.exception("model_not_retired", model=model.metadata.model_id)
        else:
            log.info("model_retired", model=model.metadata.model_id, digest=model.digest)

    async def stop(self) -> None:
        """Stop all engines and free all models."""
        closing = (self._in_executor(model.close) for model in self.loaded)
        await asyncio.gather(*self._retiring, *closing)
        self._executor.shutdown(wait=False)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
