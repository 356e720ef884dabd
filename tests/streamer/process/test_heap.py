"""Large blocks go back to the system, also behind larger ones that were freed before."""

import ctypes
import os
import subprocess
import sys

import pytest

from streamer.process.environment import HEAP_VARIABLE, LARGE_BYTES

CODE = """
import ctypes
from streamer.process.environment import fix_heap_threshold

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "mapped_blocks", "hblkhd",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc.mallinfo2.restype = Info
held = fix_heap_threshold()
libc.free(libc.malloc(16 << 20))  # glibc's threshold follows this, if it is not held
before = libc.mallinfo2().mapped_blocks
block = libc.malloc(%d)
print(held, libc.mallinfo2().mapped_blocks - before)
"""

pytestmark = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="another C library than glibc from 2.33 on"
)


def output_of(size, **variables):
    environment = {name: value for name, value in os.environ.items() if name != HEAP_VARIABLE}
    command = [sys.executable, "-c", CODE % size]
    environment |= variables
    return subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment
    ).stdout.split()


def test_large_blocks_are_mapped():
    assert output_of(2 * LARGE_BYTES) == ["True", "1"]
    assert output_of(LARGE_BYTES // 2) == ["True", "0"]


def test_operators_threshold_takes_precedence():
    assert output_of(2 * LARGE_BYTES, **{HEAP_VARIABLE: str(8 << 20)}) == ["False", "0"]
