"""What the targets make of an input: numbers and pieces read from its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class FuzzInput:
    """Bytes that are used up from the front; where they end, everything is 0 or empty.

    Small changes of the input stay small changes of what is done, which is what a fuzzer needs.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Bytes that are not used yet."""
        return max(0, len(self._data) - self._at)

    def take(self, size: int) -> bytes:
        """The next bytes, fewer at the end."""
        start, self._at = self._at, self._at + size
        return self._data[start : start + size]

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(self.left)

    def number(self, size: int = 1) -> int:
        """Unsigned, of ``size`` bytes, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def below(self, limit: int) -> int:
        """From 0 to ``limit - 1``."""
        return self.number(1 if limit <= 256 else 2) % limit

    def choice(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def piece(self) -> bytes:
        """Bytes behind their length in two bytes; :func:`pack` is the inverse."""
        return self.take(self.number(2))


def pack(pieces: Sequence[bytes]) -> bytes:
    """Pieces as :meth:`FuzzInput.piece` takes them apart."""
    return b"".join(len(piece).to_bytes(2, "little") + piece for piece in pieces)
