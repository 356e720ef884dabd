"""The model file: one ONNX graph whose metadata says everything the server must know of it."""

from __future__ import annotations

import functools
import hashlib
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import streamer.inference.onnx_runtime  # noqa: F401 - onnxruntime asks while it is loaded

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
"""The same student in 8 bits, for which a GPU has no kernels and a CPU needs half the time."""

_OUT_OF_MEMORY = re.compile(r"allocate memory|bad_?alloc|out of memory", re.IGNORECASE)
"""What ONNX Runtime says in a general error: its arena, the C++ library, CUDA."""

Opener = Callable[[], onnxruntime.InferenceSession]


class OnnxModel:
    """A loaded model file, ready to advance a batch of calls by one block.

    Args:
        path: of the ONNX file; None takes the shipped student that suits the provider.
        provider: "cpu", "cuda", or "auto" for a GPU where there is one.
        threads: CPU threads of one step; 1 is the cheapest per call.

    Attributes:
        digest: SHA-256 of the file, hexadecimal.
        metadata: that is in it.
        providers: of ONNX Runtime, the first runs the student.
        device: name of the GPU that does, or "CPU".

    Raises:
        ModelFileError: missing, truncated, of another contract, or not what its metadata says.
    """

    def __init__(
        self, path: Path | None = None, *, provider: str = "auto", threads: int = 1
    ) -> None:
        self._gpu: cuda.Device | None = cuda.find(provider)
        path = model_file(path, provider)
        try:
            content = path.read_bytes()  # once: what is hashed is what is loaded
        except OSError as error:
            raise ModelFileError(f"model file {path}: {error.strerror}") from error
        open_session = _opener(content, threads, on_gpu=self._gpu is not None)
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
            where = ".".join(str(part) for part in first["loc"])
            raise ModelFileError(f"model file {path}: metadata {where}: {first['msg']}") from error
        except json.JSONDecodeError as error:
            raise ModelFileError(f"model file {path}: metadata is not JSON: {error}") from error

    def _check_shapes(self, path: Path) -> None:
        m = self.metadata
        widths = {task: len(m.labels.of(task)) for task in TASKS}
        wanted = {"samples": m.block, "state": m.state_size, "state_out": m.state_size, **widths}
        if m.cache_size:
            wanted |= {"cache": m.cache_size, "cache_out": m.cache_size}
        nodes = (*self._session.get_inputs(), *self._session.get_outputs())
        found = {node.name: node.shape[-1] for node in nodes if len(node.shape) > 1}
        if found != wanted:
            raise ModelFileError(f"model file {path}: shapes {found} are not {wanted}")
        fixed = {node.name: node.shape[0] for node in nodes if isinstance(node.shape[0], int)}
        if fixed:
            raise ModelFileError(f"model file {path}: shapes fix the batch size: {fixed}")

    def step(
        self, samples: Floats, valid: NDArray[np.int64], memory: Memory
    ) -> tuple[list[Floats], Memory]:
        """One block for each of B calls.

        Args:
            samples: [B, block] in [-1, 1].
            valid: [B], samples that are real.
            memory: of the calls.

        Returns:
            Posteriors of :data:`TASKS`, each [B, classes], and the calls' memory after it.

        Raises:
            MemoryError: the runtime could not allocate what so many calls need.
        """
        feed: dict[str, NDArray[Any]]
        feed = {"samples": samples, "valid": valid, "state": memory.state}
        names = [*TASKS, "state_out"]
        if self.metadata.cache_size:
            feed["cache"] = memory.cache
            names.append("cache_out")
        try:
            if self._buckets is None:
                after = self._session.run(names, feed)
            else:
                after = self._buckets.run(names, feed, len(samples))
        except Exception as error:
            if _OUT_OF_MEMORY.search(str(error)):
                raise MemoryError(str(error).splitlines()[0]) from error
            raise
        cache = after[-1] if self.metadata.cache_size else memory.cache
        return after[: len(TASKS)], Memory(after[len(TASKS)], cache)

    def rows(self, calls: int) -> int:
        """How many a step of so many calls should have; those beyond them are nobody's.

        A GPU keeps memory, and what it is to do, for each number apart: there it is a power of
        two, see :meth:`warm_up`.
        """
        return 1 << (calls - 1).bit_length() if self._gpu else calls

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Zeros, where a step takes its inputs from fastest.

        Raises:
            MemoryError: there is no memory for them.
        """
        if self._gpu:
            return self._gpu.buffer(shape, dtype)
        zeros = np.empty(shape, dtype)
        zeros.fill(0)  # written, unlike those of np.zeros: their memory is taken now
        return zeros

    def warm_up(self, calls: int) -> None:
        """Make a step of one row, two, four and so on up to those of ``calls`` calls.

        On a GPU a first step takes a thousand times as long as the second; to be called on the
        thread that is to make the others, see :mod:`streamer.inference.cuda`. On a CPU the runtime
        takes memory for the largest step yet and keeps it: 7 MB for 32 blocks, which would come
        bit by bit while the server runs, and look as if calls left something behind.

        Raises:
            MemoryError: there is none for so many.
        """
        most = self.rows(calls)
        for rows in (*(1 << n for n in range((most - 1).bit_length())), most):
            silence = np.zeros((rows, self.metadata.block), np.float32)
            self.step(silence, np.zeros(rows, np.int64), self.metadata.fresh(rows))

    def close(self) -> None:
        """Free the runtime's memory, whoever still knows the student; it cannot step again."""
        self._session = self._buckets = None


def model_file(path: Path | None, provider: str) -> Path:
    """The file to load; without a ``path`` the shipped student that suits the provider.

    Raises:
        ModelFileError: there is no such file, or no such provider.
    """
    if path is None:
        path = CPU_MODEL if cuda.find(provider) is None else DEFAULT_MODEL
    if not path.is_file():
        raise ModelFileError(f"model file {path}: not found")
    return path


def _opener(content: bytes, threads: int, *, on_gpu: bool) -> Opener:
    """What opens sessions of the file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning worker burns a core between blocks; a block can wait for a wake-up.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if on_gpu:
        return cuda.Sessions(content, options).open
    return functools.partial(
        onnxruntime.InferenceSession, content, options, providers=["CPUExecutionProvider"]
    )


def main() -> int:
    """Print the metadata of a model file: labels, calibration, decision rules, provenance."""
    path = Path(sys.argv[1]) if sys.argv[1:] else None
    try:
        student = OnnxModel(path, provider="cpu")
    except ModelFileError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a command line's answer
        return 2
    print(student.metadata.model_dump_json(indent=1))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
