"""Read and write the state of a WebRTC VAD, which the Python package does not expose.

Behind ``webrtcvad.Vad`` lies one C struct without pointers, ``VadInstT`` of WebRTC's
common_audio/vad/vad_core.h. It is copied whole; :func:`check_vad_state` verifies at start that
its layout is the one declared here.
"""

from __future__ import annotations

import ctypes

import numpy as np
import webrtcvad

_CAPSULE = b"WebRtcVadPtr"
_BANDS, _GAUSSIANS = 6, 2
_INT16, _INT32 = ctypes.c_int16, ctypes.c_int32
_TABLE = _INT16 * (_BANDS * _GAUSSIANS)
_MODE = _INT16 * 3  # one value for each frame length


class _VadInst(ctypes.Structure):
    """``VadInstT``."""

    _fields_ = (
        ("vad", ctypes.c_int),
        ("downsampling_filter_states", _INT32 * 4),
        ("state_48_to_8", _INT32 * (8 + 16 + 8 + 8)),
        ("noise_means", _TABLE),
        ("speech_means", _TABLE),
        ("noise_stds", _TABLE),
        ("speech_stds", _TABLE),
        ("frame_counter", _INT32),
        ("over_hang", _INT16),
        ("num_of_speech", _INT16),
        ("index_vector", _INT16 * (16 * _BANDS)),
        ("low_value_vector", _INT16 * (16 * _BANDS)),
        ("mean_value", _INT16 * _BANDS),
        ("upper_state", _INT16 * 5),
        ("lower_state", _INT16 * 5),
        ("hp_filter_state", _INT16 * 4),
        ("over_hang_max_1", _MODE),
        ("over_hang_max_2", _MODE),
        ("individual", _MODE),
        ("total", _MODE),
        ("init_flag", ctypes.c_int),
    )


VAD_BYTES = ctypes.sizeof(_VadInst)
"""Bytes of a VAD's state: 736."""
_SETTINGS = slice(_VadInst.over_hang_max_1.offset, VAD_BYTES)
"""The part that the aggressiveness sets and nothing changes."""
_FRESH: dict[str, int] = {
    "vad": 1,
    "downsampling_filter_states": 0,
    "state_48_to_8": 0,
    "frame_counter": 0,
    "over_hang": 0,
    "num_of_speech": 0,
    "index_vector": 0,
    "low_value_vector": 10000,
    "mean_value": 1600,
    "upper_state": 0,
    "lower_state": 0,
    "hp_filter_state": 0,
    "init_flag": 42,
}
"""What ``WebRtcVad_InitCore`` writes into every element of these fields."""
_CHUNK_SLACK = 24
"""glibc, musl and jemalloc give a request of this size at most so many bytes more."""
_RATE, _FRAME = 8000, 240


class VadStateError(RuntimeError):
    """This build of webrtcvad does not keep its state as declared here; one line."""


def _address(vad: webrtcvad.Vad) -> int:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.argtypes, get.restype = [ctypes.py_object, ctypes.c_char_p], ctypes.c_void_p
    try:
        return int(get(vad._vad, _CAPSULE))
    except (AttributeError, ValueError) as error:
        raise VadStateError(f"webrtcvad keeps its state elsewhere: {error}") from error


def read_vad(vad: webrtcvad.Vad) -> bytes:
    """State of a VAD, :data:`VAD_BYTES` long."""
    return ctypes.string_at(_address(vad), VAD_BYTES)


def write_vad(vad: webrtcvad.Vad, memory: bytes) -> None:
    """Set the state of ``vad``.

    Raises:
        ValueError: not the state of a VAD, or of one with another aggressiveness; ``vad`` is
            unchanged.
    """
    if len(memory) != VAD_BYTES:
        raise ValueError(f"{len(memory)} bytes, a VAD has {VAD_BYTES}")
    if memory[_SETTINGS] != read_vad(vad)[_SETTINGS]:
        raise ValueError("the memory is of a VAD with other settings")
    ctypes.memmove(_address(vad), memory, VAD_BYTES)


def check_vad_state() -> None:
    """Verify that the state of a VAD can be copied.

    Every field of a fresh VAD must hold what WebRTC's initialisation writes there, and the
    allocation must end where the struct does, so that nothing lies behind it. Then a copy made
    in the middle of a signal must continue as the original, to the last bit, and one without the
    state of the filters must not.

    Raises:
        VadStateError: it cannot.
    """
    fresh = webrtcvad.Vad(2)
    _check_size(fresh)
    found = _VadInst.from_buffer_copy(read_vad(fresh))
    for name, expected in _FRESH.items():
        value = getattr(found, name)
        values = [value] if isinstance(value, int) else list(value)
        if set(values) != {expected}:
            raise VadStateError(f"webrtcvad: {name} of a fresh VAD is {values}, not {expected}")
    signal = _signal()
    for cut in (1, len(signal) // 2, len(signal) - 4):
        original, copy, part = (webrtcvad.Vad(2) for _ in range(3))
        _run(original, signal[:cut])
        memory = read_vad(original)
        write_vad(copy, memory)
        ctypes.memmove(_address(part), memory, _VadInst.upper_state.offset)
        decided = [_run(vad, signal[cut : cut + 1]) for vad in (original, copy, part)]
        if read_vad(part) == read_vad(original):
            raise VadStateError("webrtcvad: a part of the memory is all of it")
        decided += [_run(vad, signal[cut + 1 :]) for vad in (original, copy)]
        if decided[0] != decided[1] or decided[3] != decided[4]:
            raise VadStateError("webrtcvad: a copied VAD decides otherwise than the original")
        if read_vad(copy) != read_vad(original):
            raise VadStateError("webrtcvad: a copied VAD ends otherwise than the original")


def _check_size(vad: webrtcvad.Vad) -> None:
    """Verify that nothing lies behind the struct: its allocation is no longer."""
    try:
        usable = ctypes.CDLL(None).malloc_usable_size
    except (OSError, AttributeError) as error:
        raise VadStateError("this C library does not say how long an allocation is") from error
    usable.argtypes, usable.restype = [ctypes.c_void_p], ctypes.c_size_t
    size = int(usable(_address(vad)))
    if not VAD_BYTES <= size < VAD_BYTES + _CHUNK_SLACK:
        raise VadStateError(f"webrtcvad: {size} bytes are allocated for a struct of {VAD_BYTES}")


def _run(vad: webrtcvad.Vad, frames: list[bytes]) -> list[bool]:
    return [bool(vad.is_speech(frame, _RATE)) for frame in frames]


def _signal() -> list[bytes]:
    """Frames of a made-up voice in syllables over noise."""
    t = np.arange(64 * _FRAME)
    voice = (t % 53 - 26) / 26 * np.where(t // (8 * _FRAME) % 2, 4000, 40)
    noise = np.random.default_rng(1).integers(-32, 33, len(t))
    samples = (voice + noise).astype("<i2")
    return [frame.tobytes() for frame in samples.reshape(-1, _FRAME)]
