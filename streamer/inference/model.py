"""The model file: one ONNX graph whose metadata holds all that the server must know of it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamer.inference.onnx_runtime  # noqa: F401 - must come before onnxruntime

# isort: split
import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray
from pydantic import ValidationError

from streamer.errors import ModelFileError
from streamer.inference import cuda
from streamer.inference.metadata import CONTRACT, METADATA_KEY, TASKS, Floats, Memory, Metadata

DEFAULT_MODEL = Path(__file__).parents[1] / "models" / "student.onnx"
CPU_MODEL = DEFAULT_MODEL.with_name("student-int8.onnx")
"""The same student in 8 bits: half the time on a CPU; a GPU has no kernels for it."""

_OUT_OF_MEMORY = re.compile(r"allocate memory|bad_?alloc|out of memory", re.IGNORECASE)
"""In the messages of ONNX Runtime's general errors: its arena, the C++ library, CUDA."""


class OnnxModel:
    """A loaded model file, which advances a batch of streams by one block.

    Args:
        path: of the ONNX file; None is the shipped file for the provider.
        provider: "cpu", "cuda", or "auto" for a GPU if there is one.
        threads: CPU threads of one step; 1 costs least CPU per call.

    Attributes:
        digest: SHA-256 of the file, hexadecimal.
        metadata: of the file.
        providers: of ONNX Runtime, the first runs the model.
        device: name of the GPU that runs the model, or "CPU".

    Raises:
        ModelFileError: the file is missing, truncated, of another contract, or its graph does not
            match its metadata; or there is no such provider.
    """

    def __init__(
        self, path: Path | None = None, *, provider: str = "auto", threads: int = 1
    ) -> None:
        self._gpu = cuda.find(provider)
        path = model_file(path, provider)
        try:
            content = path.read_bytes()  # once: the digest is that of the loaded content
        except OSError as error:
            raise ModelFileError(f"model file {path}: {error.strerror}") from error
        open_session = _session_factory(content, threads, on_gpu=self._gpu is not None)
        try:
            self._session = open_session()
        except Exception as error:
            reason = str(error).splitlines()[0]
            raise ModelFileError(f"model file {path}: cannot be loaded: {reason}") from error
        self._buckets = cuda.Buckets(self._gpu, open_session) if self._gpu else None
        self.digest = hashlib.sha256(content).hexdigest()
        self.providers: list[str] = self._session.get_providers()
        self.device = self._gpu.name if self._gpu else "CPU"
        self.metadata = self._read_metadata(path)
        self._check_shapes(path)

    def _read_metadata(self, path: Path) -> Metadata:
        raw = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        if raw is None:
            raise ModelFileError(f"model file {path}: no metadata {METADATA_KEY!r}; not a student")
        try:
            plain = json.loads(raw)
            contract = plain.get("contract") if isinstance(plain, dict) else None
            if contract != CONTRACT:
                raise ModelFileError(
                    f"model file {path}: contract {contract!r}, this server speaks {CONTRACT}"
                )
            return Metadata.model_validate(plain)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ModelFileError(f"model file {path}: metadata {field}: {first['msg']}") from error
        except json.JSONDecodeError as error:
            raise ModelFileError(f"model file {path}: metadata is not JSON: {error}") from error

    def _check_shapes(self, path: Path) -> None:
        m = self.metadata
        widths = {task: len(m.labels.of(task)) for task in TASKS}
        expected = {"samples": m.block, "state": m.state_size, "state_out": m.state_size, **widths}
        if m.cache_size:
            expected |= {"cache": m.cache_size, "cache_out": m.cache_size}
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        found = {node.name: node.shape[-1] for node in nodes if len(node.shape) > 1}
        if found != expected:
            raise ModelFileError(f"model file {path}: shapes {found} are not {expected}")
        fixed = {node.name: node.shape[0] for node in nodes if isinstance(node.shape[0], int)}
        if fixed:
            raise ModelFileError(f"model file {path}: shapes fix the batch size: {fixed}")

    def step(
        self, samples: Floats, valid: NDArray[np.int64], memory: Memory
    ) -> tuple[list[Floats], Memory]:
        """Process one block of each of B streams.

        Args:
            samples: float32 [B, block] in [-1, 1].
            valid: int64 [B], leading samples of each row that count; the others are padding.
            memory: of the B streams.

        Returns:
            Posteriors of :data:`TASKS`, float32 [B, classes] each, and the streams' next memory.

        Raises:
            MemoryError: the runtime cannot allocate what this batch needs.
        """
        feed: dict[str, NDArray[Any]]
        feed = {"samples": samples, "valid": valid, "state": memory.state}
        names = [*TASKS, "state_out"]
        if self.metadata.cache_size:
            feed["cache"] = memory.cache
            names.append("cache_out")
        try:
            if self._buckets is None:
                outputs = self._session.run(names, feed)
            else:
                outputs = self._buckets.run(names, feed, len(samples))
        except Exception as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise
        cache = outputs[-1] if self.metadata.cache_size else memory.cache
        return outputs[: len(TASKS)], Memory(outputs[len(TASKS)], cache)

    def padded_size(self, size: int) -> int:
        """Return how many rows a step of ``size`` streams must have.

        On a GPU that is the next power of two: it holds memory and a graph for each size.
        """
        return 1 << (size - 1).bit_length() if self._gpu else size

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Return zeros in the memory from which a step reads its inputs fastest.

        Raises:
            MemoryError: there is no memory for them.
        """
        if self._gpu:
            return self._gpu.buffer(shape, dtype)
        zeros = np.empty(shape, dtype)
        zeros.fill(0)  # written, unlike those of np.zeros: the pages are allocated now
        return zeros

    def warm_up(self, max_size: int) -> None:
        """Run a step of 1, 2, 4 and so on up to ``max_size`` streams.

        On a GPU the first step of a size takes a thousand times as long as the second, and must
        run on the thread that runs the others, see :mod:`streamer.inference.cuda`. On a CPU the
        runtime keeps the memory of the largest step: 7 MB for 32 blocks, which would otherwise
        grow while the server runs and look like a leak.

        Raises:
            MemoryError: there is no memory for a step of ``max_size`` streams.
        """
        max_rows = self.padded_size(max_size)
        for rows in (*(1 << n for n in range((max_rows - 1).bit_length())), max_rows):
            silence = np.zeros((rows, self.metadata.block), np.float32)
            self.step(silence, np.zeros(rows, np.int64), self.metadata.fresh(rows))

    def close(self) -> None:
        """Free the runtime's memory, also if the model is still referenced; no step can follow."""
        self._session = self._buckets = None


def model_file(path: Path | None, provider: str) -> Path:
    """Return the file to load; without a ``path`` the shipped file for the provider.

    Raises:
        ModelFileError: there is no such file or provider.
    """
    if path is None:
        path = CPU_MODEL if cuda.find(provider) is None else DEFAULT_MODEL
    if not path.is_file():
        raise ModelFileError(f"model file {path}: not found")
    return path


def _session_factory(
    content: bytes, threads: int, *, on_gpu: bool
) -> Callable[[], onnxruntime.InferenceSession]:
    """Return a function that opens a session of the file's ``content``."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning thread uses a core between blocks; a block can wait for a wake-up.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if on_gpu:
        return cuda.SessionFactory(content, options).open
    return functools.partial(
        onnxruntime.InferenceSession, content, options, providers=["CPUExecutionProvider"]
    )


def main() -> int:
    """Print the metadata of a model file: labels, calibration, decision rules, provenance."""
    path = Path(sys.argv[1]) if sys.argv[1:] else None
    try:
        model = OnnxModel(path, provider="cpu")
    except ModelFileError as error:
        print(error, file=sys.stderr)  # noqa: T201 - output of the command
        return 2
    print(model.metadata.model_dump_json(indent=1))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
