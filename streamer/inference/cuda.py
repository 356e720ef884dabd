"""Steps on a GPU: page-locked buffers, a session for each batch size, one launch a step.

A step is some two hundred kernels; launching them one by one takes four times as long as running
them. A CUDA graph launches them all at once. It reads and writes where it did when it was captured,
and belongs to the thread that captured it: hence buffers of fixed shapes that stay, and a session
for each shape. In one session for all shapes, replaying the graph of a shape that was not the last
was an illegal instruction on an H100. Probably ONNX Runtime keeps what cuDNN compiled for the last
shape only, and frees the code of the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import streamer.inference.onnx_runtime  # noqa: F401 - must come before onnxruntime

# isort: split
import numpy as np
import onnxruntime
import structlog
from numpy.typing import DTypeLike, NDArray

from streamer.errors import ModelFileError

log = structlog.get_logger()

PROVIDER = "CUDAExecutionProvider"

_TYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(uint8)": np.dtype(np.uint8),
}

Array = NDArray[Any]


class Cuda:
    """The first GPU that CUDA shows.

    Attributes:
        kind: device type of ONNX Runtime.
        name: product name.

    Raises:
        ImportError: cuda-bindings is not installed.
        RuntimeError: there is no GPU, or no suitable driver.
    """

    kind = "cuda"

    def __init__(self) -> None:
        from cuda.bindings import runtime  # noqa: PLC0415 - an extra

        self._runtime = runtime
        if not self._check(runtime.cudaGetDeviceCount()):
            raise RuntimeError("there is no GPU")
        self.name: str = self._check(runtime.cudaGetDeviceProperties(0)).name.decode()

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Return page-locked zeros, which the GPU copies from and to at full speed.

        Freed with the last array that shows them.

        Raises:
            MemoryError: there is no memory for them.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        default = self._runtime.cudaHostAllocDefault
        address = int(self._check(self._runtime.cudaHostAlloc(size, default)))
        memory = (ctypes.c_uint8 * size).from_address(address)
        # Not at exit: the driver, which frees all, may be gone by then.
        weakref.finalize(memory, self._runtime.cudaFreeHost, address).atexit = False
        array: Array = np.frombuffer(memoryview(memory), dtype).reshape(shape)
        array[:] = 0
        return array

    def copy(self, source: int, target: int, size: int, *, to_host: bool) -> None:
        """Copy ``size`` bytes from host to GPU, or back; returns when they are copied."""
        kinds = self._runtime.cudaMemcpyKind
        kind = kinds.cudaMemcpyDeviceToHost if to_host else kinds.cudaMemcpyHostToDevice
        self._check(self._runtime.cudaMemcpy(target, source, size, kind))

    def _check(self, result: tuple[Any, ...]) -> Any:  # noqa: ANN401 - of many types
        error, *values = result
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError("CUDA: out of memory")
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise RuntimeError(f"CUDA: {self._runtime.cudaGetErrorString(error)[1].decode()}")
        return values[0] if values else None


def find(provider: str) -> Cuda | None:
    """Return the GPU to run the model on; None is the CPU.

    Args:
        provider: "cpu", "cuda", or "auto" for a GPU if there is one.

    Raises:
        ModelFileError: "cuda" cannot be used.
    """
    if provider == "cpu":
        return None
    available = onnxruntime.get_available_providers()
    if PROVIDER not in available:
        if provider == "cuda":
            raise ModelFileError(f"provider cuda: this onnxruntime offers only {available}")
        return None
    try:
        return _first_gpu()
    except (ImportError, RuntimeError) as error:
        if provider == "cuda":
            raise ModelFileError(f"provider cuda: {error}") from error
        _warn_unusable(str(error))
        return None


@functools.cache
def _first_gpu() -> Cuda:
    gpu = Cuda()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):  # its warnings
        onnxruntime.preload_dlls()  # those of the CUDA packages that pip installed
    if printed.getvalue():
        log.warning("cuda_libraries", reason=printed.getvalue().strip())
    return gpu


@functools.cache
def _warn_unusable(reason: str) -> None:
    log.warning("gpu_unusable", reason=reason, provider="cpu")


class SessionFactory:
    """Opens GPU sessions of one model file, one for each batch size.

    With CUDA graphs, unless parts of the model have no GPU kernel. In float32 as on a CPU (no
    TF32): the step takes a fifth longer, and calls may move between servers with and without GPU.

    Args:
        content: of the model file.
        options: of every session.
    """

    def __init__(self, content: bytes, options: onnxruntime.SessionOptions) -> None:
        self._content = content
        self._options = options
        self._graphs = True

    def open(self) -> onnxruntime.InferenceSession:
        """Open one more session.

        Raises:
            RuntimeError: ONNX Runtime cannot use the GPU, or cannot load the file.
        """
        if self._graphs:
            try:
                return _open(self._content, self._options, {"enable_cuda_graph": "1"})
            except Exception as error:  # noqa: BLE001 - it has no type of its own
                session = _open(self._content, self._options, {})
                self._graphs = False
                log.warning("no_cuda_graph", reason=str(error).splitlines()[0])
                return session
        return _open(self._content, self._options, {})


def _open(
    content: bytes, options: onnxruntime.SessionOptions, cuda_options: dict[str, str]
) -> onnxruntime.InferenceSession:
    providers = [(PROVIDER, {"use_tf32": "0"} | cuda_options), "CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != PROVIDER:
        raise RuntimeError("ONNX Runtime cannot use the GPU, for a reason that it has printed")
    return session


class Buckets:
    """The steps of one model on a GPU, a bucket for each batch size.

    Thread-safe; one step runs at a time.

    Args:
        device: allocates and copies the buffers.
        open_session: opens a session of ONNX Runtime on the device.
    """

    def __init__(
        self, device: Cuda, open_session: Callable[[], onnxruntime.InferenceSession]
    ) -> None:
        self._device = device
        self._open_session = open_session
        self._buckets: dict[int, _Bucket] = {}
        self._lock = threading.Lock()

    def run(self, names: Sequence[str], feed: Mapping[str, Array], rows: int) -> list[Array]:
        """Return the outputs ``names`` of a step of ``rows`` rows.

        Raises:
            ValueError: an input has another shape or type than the model's.
        """
        with self._lock:
            if rows not in self._buckets:
                self._buckets[rows] = _Bucket(self._device, self._open_session(), rows)
            outputs = self._buckets[rows].run(feed)
            return [outputs[name].copy() for name in names]  # the next step overwrites them


class _Bucket:
    """A step of a fixed number of rows: its session, and its buffers on host and device."""

    def __init__(self, device: Cuda, session: onnxruntime.InferenceSession, rows: int) -> None:
        self._device = device
        self._session = session
        self._binding = session.io_binding()
        self._inputs: dict[str, tuple[onnxruntime.OrtValue, np.dtype[Any]]] = {}
        self._outputs: dict[str, tuple[onnxruntime.OrtValue, Array]] = {}
        for node in session.get_inputs():
            value, dtype = self._device_value(node, rows)
            self._inputs[node.name] = value, dtype
            self._binding.bind_ortvalue_input(node.name, value)
        for node in session.get_outputs():
            value, dtype = self._device_value(node, rows)
            self._outputs[node.name] = value, device.buffer(tuple(value.shape()), dtype)
            self._binding.bind_ortvalue_output(node.name, value)

    def _device_value(
        self, node: onnxruntime.NodeArg, rows: int
    ) -> tuple[onnxruntime.OrtValue, np.dtype[Any]]:
        shape, dtype = (rows, *node.shape[1:]), _TYPES[node.type]
        kind = self._device.kind
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, dtype, kind, 0), dtype

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name, in buffers that the next run overwrites."""
        for name, (value, dtype) in self._inputs.items():
            array = np.ascontiguousarray(feed[name])
            if (array.dtype, list(array.shape)) != (dtype, value.shape()):
                raise ValueError(f"{name}: {array.dtype} {array.shape}, not {value.shape()}")
            self._device.copy(array.ctypes.data, value.data_ptr(), array.nbytes, to_host=False)
        self._session.run_with_iobinding(self._binding)
        for value, array in self._outputs.values():
            self._device.copy(value.data_ptr(), array.ctypes.data, array.nbytes, to_host=True)
        return {name: array for name, (_, array) in self._outputs.items()}
