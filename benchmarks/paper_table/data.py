"""Which data a row of Table 1 was made from: a digest, so that records of others are told apart."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence

from lhotse import CutSet, MonoCut
from lhotse.serialization import open_best

from train.data.dataset import SPLITS, Split, open_split

_MADE_HOW = ("channel", "copies", "seed", "rate")
"""What train.shard and train.simulate_calls say of themselves that changes what is heard."""


def labelled(split: Split) -> Iterator[MonoCut]:
    """Cuts of a split without their audio: archives are not read."""
    for shard in split.shards:
        yield from CutSet.from_jsonl_lazy(shard.cuts)


def identity(folders: Sequence[str]) -> str:
    """Digest of utterances, labels and telephone; no path is in it, so it travels.

    Raises:
        OSError, ValueError: they cannot be read, or a split is not there.
    """
    digest = hashlib.sha256()
    for folder in folders:
        with contextlib.suppress(OSError), open_best(f"{folder.rstrip('/')}/shards.json") as file:
            made = json.load(file)
            digest.update(repr([(key, made.get(key)) for key in _MADE_HOW]).encode())
    for name in SPLITS:
        lines = []
        for cut in labelled(open_split(list(folders), name)):
            said = cut.supervisions[0]
            lines.append(f"{cut.id} {said.speaker} {said.gender} {said.custom['age_band']}")
        digest.update("\n".join([name, *sorted(lines)]).encode())
    return digest.hexdigest()[:12]
