"""Memory for batches, used again as soon as nobody holds it any more.

Fresh memory costs a page fault every 4 KiB, which is as much as half of decoding into it.
"""

import bisect
import math
import threading
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]


class BufferPool:
    """Lends arrays; one that was lent comes back when the last view of it is gone.

    At most `keep` unused ones are kept, the largest. Safe to use from many threads.
    """

    def __init__(self, *, keep: int) -> None:
        self._keep = keep
        self._free: list[NDArray[np.uint8]] = []
        # Garbage collection may return a buffer while this very thread holds the lock.
        self._lock = threading.RLock()

    def lend(self, shape: tuple[int, ...]) -> Pixels:
        """An array uint8 of that shape, whose values are left from an earlier use."""
        length = math.prod(shape)
        buffer = self._taken(length)
        loan = _Loan(buffer[:length].reshape(shape))
        weakref.finalize(loan, self._give_back, buffer).atexit = False
        return np.asarray(loan)

    def _taken(self, length: int) -> NDArray[np.uint8]:
        with self._lock:
            for place, buffer in enumerate(self._free):
                if len(buffer) >= length:
                    return self._free.pop(place)
        return np.empty(length, np.uint8)

    def _give_back(self, buffer: NDArray[np.uint8]) -> None:
        with self._lock:
            bisect.insort(self._free, buffer, key=len)
            if len(self._free) > self._keep:
                del self._free[0]


class _Loan:
    """What numpy keeps alive as the base of every view of a lent array."""

    def __init__(self, view: Pixels) -> None:
        self.__array_interface__: dict[str, Any] = view.__array_interface__
        self._view = view
