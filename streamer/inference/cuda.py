"""Steps on a GPU: page-locked memory, a bucket for every number of rows, one launch a step.

A step is some two hundred kernels, and launching them one by one takes four times as long as they
do. A CUDA graph of them all is launched at once; it reads and writes where it did when it was
captured, and it is captured by one thread for itself. Hence buffers of fixed shapes that stay, and
a session for each shape: in one for all, replaying the graph of a shape that was not the last was
an illegal instruction on an H100. It is likely that ONNX Runtime keeps what cuDNN compiled for the
last shape only, and frees the code of the others.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import streamer.inference.onnx_runtime  # noqa: F401 - onnxruntime asks while it is loaded

# isort: split
import numpy as np
import onnxruntime
import structlog
from numpy.typing import DTypeLike, NDArray

from streamer.errors import ModelFileError

log = structlog.get_logger()

PROVIDER = "CUDAExecutionProvider"

_TYPES: dict[str, DTypeLike] = {
    "tensor(float)": np.float32,
    "tensor(int64)": np.int64,
    "tensor(uint8)": np.uint8,
}

Array = NDArray[Any]


class Device(Protocol):
    """What buckets need of a device.

    Attributes:
        kind: as ONNX Runtime calls it.
        name: as its maker does.
    """

    kind: str
    name: str

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Zeros on the host that the device copies from and to at its full speed."""
        ...

    def copy(self, source: int, target: int, size: int, *, to_host: bool) -> None:
        """Copy bytes from the host to the device, or back; done when it returns."""
        ...


class Cuda:
    """The first GPU that CUDA shows. See :class:`Device`.

    Raises:
        ImportError: cuda-bindings is not installed.
        RuntimeError: there is no GPU, or no driver that suits.
    """

    kind = "cuda"

    def __init__(self) -> None:
        from cuda.bindings import runtime  # noqa: PLC0415 - an extra

        self._runtime = runtime
        if not self._done(runtime.cudaGetDeviceCount()):
            raise RuntimeError("there is no GPU")
        self.name: str = self._done(runtime.cudaGetDeviceProperties(0)).name.decode()

    def buffer(self, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        """Page-locked zeros, freed with the last array that shows them.

        Raises:
            MemoryError: there is none.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if not size:
            return np.zeros(shape, dtype)
        default = self._runtime.cudaHostAllocDefault
        address = int(self._done(self._runtime.cudaHostAlloc(size, default)))
        held = (ctypes.c_uint8 * size).from_address(address)
        # Not at exit: the driver is gone by then, and takes it all along.
        weakref.finalize(held, self._runtime.cudaFreeHost, address).atexit = False
        array: Array = np.frombuffer(memoryview(held), dtype).reshape(shape)
        array[:] = 0
        return array

    def copy(self, source: int, target: int, size: int, *, to_host: bool) -> None:
        """See :class:`Device`."""
        kinds = self._runtime.cudaMemcpyKind
        kind = kinds.cudaMemcpyDeviceToHost if to_host else kinds.cudaMemcpyHostToDevice
        self._done(self._runtime.cudaMemcpy(target, source, size, kind))

    def _done(self, result: tuple[Any, ...]) -> Any:  # noqa: ANN401 - many kinds
        error, *values = result
        if error == self._runtime.cudaError_t.cudaErrorMemoryAllocation:
            raise MemoryError("CUDA: out of memory")
        if error != self._runtime.cudaError_t.cudaSuccess:
            raise RuntimeError(f"CUDA: {self._runtime.cudaGetErrorString(error)[1].decode()}")
        return values[0] if values else None


def find(choice: str) -> Cuda | None:
    """The GPU that a student should run on; None is the CPU.

    Args:
        choice: "cpu", "cuda", or "auto" for a GPU where there is one.

    Raises:
        ModelFileError: "cuda" was chosen and cannot be had.
    """
    if choice == "cpu":
        return None
    offered = onnxruntime.get_available_providers()
    if PROVIDER not in offered:
        if choice == "cuda":
            raise ModelFileError(f"provider cuda: this onnxruntime offers only {offered}")
        return None
    try:
        return _first()
    except (ImportError, RuntimeError) as error:
        if choice == "cuda":
            raise ModelFileError(f"provider cuda: {error}") from error
        _say_unusable(str(error))
        return None


@functools.cache
def _first() -> Cuda:
    gpu = Cuda()
    told = io.StringIO()
    with contextlib.redirect_stdout(told):  # where it complains
        onnxruntime.preload_dlls()  # those that pip installed beside it
    if told.getvalue():
        log.warning("cuda_libraries", reason=told.getvalue().strip())
    return gpu


@functools.cache
def _say_unusable(reason: str) -> None:
    log.warning("gpu_unusable", reason=reason, provider="cpu")


class Sessions:
    """Opens sessions of one student on the GPU, as many as there are shapes.

    With CUDA graphs, unless parts of the student have no kernel there. In float32 as a CPU has it
    (no TF32): the step takes a fifth longer, and calls may move.

    Args:
        content: of the model file.
        options: of every session.
    """

    def __init__(self, content: bytes, options: onnxruntime.SessionOptions) -> None:
        self._content = content
        self._options = options
        self._graphs = True

    def open(self) -> onnxruntime.InferenceSession:
        """One more.

        Raises:
            RuntimeError: ONNX Runtime cannot use the GPU, or not load the file.
        """
        if self._graphs:
            try:
                return _session(self._content, self._options, {"enable_cuda_graph": "1"})
            except Exception as error:  # noqa: BLE001 - its kinds are not told apart
                made = _session(self._content, self._options, {})
                self._graphs = False
                log.warning("no_cuda_graph", reason=str(error).splitlines()[0])
                return made
        return _session(self._content, self._options, {})


def _session(
    content: bytes, options: onnxruntime.SessionOptions, more: dict[str, str]
) -> onnxruntime.InferenceSession:
    providers = [(PROVIDER, {"use_tf32": "0"} | more), "CPUExecutionProvider"]
    made = onnxruntime.InferenceSession(content, options, providers=providers, enable_fallback=0)
    if made.get_providers()[0] != PROVIDER:
        raise RuntimeError("ONNX Runtime cannot use the GPU, for a reason that it has printed")
    return made


class Buckets:
    """The steps of one student on a device. Safe to use from several threads, one at a time.

    Args:
        device: holds the buffers.
        open_session: makes a session of ONNX Runtime there.
    """

    def __init__(
        self, device: Device, open_session: Callable[[], onnxruntime.InferenceSession]
    ) -> None:
        self._device = device
        self._open_session = open_session
        self._buckets: dict[int, _Bucket] = {}
        self._lock = threading.Lock()

    def run(self, names: Sequence[str], feed: Mapping[str, Array], rows: int) -> list[Array]:
        """The outputs of these names."""
        with self._lock:
            if rows not in self._buckets:
                self._buckets[rows] = _Bucket(self._device, self._open_session(), rows)
            outputs = self._buckets[rows].run(feed)
            return [outputs[name].copy() for name in names]  # the next run writes there


class _Bucket:
    """A step of so many rows: memory for its inputs and outputs on both sides."""

    def __init__(self, device: Device, session: onnxruntime.InferenceSession, rows: int) -> None:
        self._device = device
        self._session = session
        self._binding = session.io_binding()
        self._types = {node.name: np.dtype(_TYPES[node.type]) for node in session.get_inputs()}
        self._inputs: dict[str, onnxruntime.OrtValue] = {}
        self._outputs: dict[str, tuple[onnxruntime.OrtValue, Array]] = {}
        for node in session.get_inputs():
            value = self._inputs[node.name] = self._there(node, rows)
            self._binding.bind_ortvalue_input(node.name, value)
        for node in session.get_outputs():
            value = self._there(node, rows)
            here = device.buffer(tuple(value.shape()), _TYPES[node.type])
            self._outputs[node.name] = value, here
            self._binding.bind_ortvalue_output(node.name, value)

    def _there(self, node: onnxruntime.NodeArg, rows: int) -> onnxruntime.OrtValue:
        shape = (rows, *node.shape[1:])
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(
            shape, _TYPES[node.type], self._device.kind, 0
        )

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, where the next run writes them, too."""
        for name, value in self._inputs.items():
            array = np.ascontiguousarray(feed[name])
            if (array.dtype, list(array.shape)) != (self._types[name], value.shape()):
                raise ValueError(f"{name}: {array.dtype} {array.shape}, not {value.shape()}")
            self._device.copy(array.ctypes.data, value.data_ptr(), array.nbytes, to_host=False)
        self._session.run_with_iobinding(self._binding)
        for value, here in self._outputs.values():
            self._device.copy(value.data_ptr(), here.ctypes.data, here.nbytes, to_host=True)
        return {name: here for name, (_, here) in self._outputs.items()}
