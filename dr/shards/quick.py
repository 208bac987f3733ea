"""A record's picture without a copy of it: for readers that want thousands of them a second.

Building a `tf.train.Example` copies the picture twice while holding the interpreter's lock.
"""

import mmap
import re

_VARINT = rb"[\x80-\xff]*[\x00-\x7f]"
_IMAGE = re.compile(
    rb"\x0a%(v)b\x0a%(v)b\x0a\x05image\x12%(v)b\x0a(%(v)b)\x0a(%(v)b)" % {b"v": _VARINT}
)
_NAME = re.compile(rb"\x0a\x04name\x12%(v)b\x0a%(v)b\x0a(%(v)b)" % {b"v": _VARINT})


class MappedFile:
    """A file's bytes as memory: no copy is made, and no system call for what is cached.

    Where the disk itself fails under it the system ends the process (SIGBUS).
    """

    def __init__(self, descriptor: int) -> None:
        """Raises OSError or ValueError where the file is empty or cannot be mapped."""
        self._map = mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        self._view = memoryview(self._map)

    def part(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, fewer where the file ends now."""
        return self._view[offset : min(offset + length, self._map.size())]


def image_and_name(example: memoryview) -> tuple[memoryview, str] | None:
    """The picture and name in an Example as this project writes it; None for any other."""
    found = _IMAGE.match(example)
    if found is None:
        return None
    length = _number(found[2])
    rest = example[found.end() + length :]
    named = _NAME.search(rest)
    if named is None or _number(found[1]) != 1 + len(found[2]) + length:
        return None
    name = rest[named.end() :][: _number(named[1])]
    return example[found.end() :][:length], bytes(name).decode(errors="replace")


def _number(varint: bytes) -> int:
    return sum((byte & 127) << 7 * place for place, byte in enumerate(varint))
