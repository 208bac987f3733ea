"""How glibc's malloc treats the memory of large tensors that are freed."""

import ctypes
import platform

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = -1


def keep_freed_memory() -> bool:
    """Have freed memory kept for the next tensor; whether this process's C library does.

    By default glibc gives every large tensor back to the system, and each step meets it again as
    pages that the kernel has to clear. From here on the process keeps what it once needed: its
    peak. Other C libraries than glibc are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER))
