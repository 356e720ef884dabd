"""Error of one record of a source; the source continues."""

from __future__ import annotations

from train.corpora.utterance import Rejected


class Unusable(Exception):
    """One file or record cannot be used; becomes a :class:`Rejected`.

    Args:
        reason: kind of fault in a few fixed words, to count by.
        detail: field and value.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def at(self, source: str) -> Rejected:
        """The entry for the report."""
        return Rejected(source, self.reason, self.detail)
