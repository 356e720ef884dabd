"""The server's memory stays what its calls need, over months.

glibc raises its threshold for large allocations to the largest that was ever freed, up to 32 MiB:
one message of 2 MB, and from then on such messages are carved out of the heap and leave holes in
it. Where every fifteenth of 30,000 malformed calls sent one, the heap's free part grew from 12 to
20 MB, and went on; with the threshold held at 1 MiB it stayed between 4 and 7 MB.
The arrays of a step lie below that.

An operator's own MALLOC_MMAP_THRESHOLD_ wins; other C libraries are left alone.
"""

from __future__ import annotations

import ctypes
import os

VARIABLE = "MALLOC_MMAP_THRESHOLD_"
LARGE_BYTES = 1 << 20
"""From here on an allocation is given back to the system as soon as it is freed."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


def hold_threshold() -> bool:
    """Fix glibc's threshold; False if that is not ours to do or not possible here.

    That of the heap's end, which glibc has raised with it while the libraries were loaded, too.
    """
    if VARIABLE in os.environ:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return all(mallopt(name, LARGE_BYTES) == 1 for name in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD))
