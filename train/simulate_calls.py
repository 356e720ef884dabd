"""Send a corpus through the telephone once, instead of anew in every run that trains on it.

    python -m train.simulate_calls runs/shards runs/calls --copies 3 --channel full --seed 1

Most of what the loader costs is the telephone channel and the speech gate behind it. This keeps
what they leave: int16 at 8 kHz, as WAV in shards (``train.data.shards``). The train split is
drawn ``copies`` times (``corpus/utterance~0``, ``~1``, ...), dev and test once, as training with
the same seed and channel would hear them; training then takes ``runs/calls`` for its data. A run
that was cut off goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.serialization import open_best
from pydantic import Field
from pydantic_settings import CliApp, CliPositionalArg, SettingsConfigDict

from model.labels import DEFAULT_TREE
from streamer.audio.codec import SAMPLE_RATE
from train.command import Command
from train.corpora.utterance import CALL
from train.data.babble import BabblePool
from train.data.batching import TelephoneDataset
from train.data.channel_sampler import ChannelSampler, Preset
from train.data.dataset import Shard, Split, open_splits, plain_id, utterance_of
from train.data.shards import LeftOut, Part, Parts, Stored, summary, write_folder


class SimulateCalls(Command):
    """Send a corpus through the simulated telephone once, for many runs that train on it."""

    model_config = SettingsConfigDict(cli_prog_name="python -m train.simulate_calls")

    data: CliPositionalArg[str]
    """folder of train.prepare or train.shard, or the address of shards"""
    out: CliPositionalArg[Path]
    """folder for the calls; an unfinished run there is continued"""
    copies: int = Field(3, ge=1)
    """telephone channels drawn for each utterance of the train split; dev and test get one"""
    channel: Preset = "full"
    """simulated telephone: clean, simple or full (train/telephone)"""
    seed: int = 1
    """of the channels; training with the same one uses the same dev split"""
    clips: int = Field(1000, ge=1)
    """utterances per shard; every process of a training needs at least one shard of its own"""
    workers: int = Field(2, ge=1)
    """processes; any number writes the same bytes"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        print(summary(degrade(self), self.out))


def _heard(
    calls: TelephoneDataset, shard: Shard, chunk: slice, copy: int | None
) -> Iterator[Stored | LeftOut]:
    """What a chunk of a shard sounds like at the other end of the line."""
    for cut in islice(shard.read(), chunk.start, chunk.stop):
        if plain_id(cut.id) != cut.id:
            raise ValueError(f"{cut.id}: ends as only the id of a copy may, or is one")
        name = cut.id if copy is None else f"{cut.id}~{copy}"
        source = utterance_of(cut).source
        try:
            speech = calls.example(replace(cut, id=name)).speech
        except OSError as error:
            yield LeftOut(name, source, str(error))
            continue
        if len(speech):
            yield Stored(_labelled(cut, name), speech, SAMPLE_RATE)
        else:
            yield LeftOut(name, source, "no speech in the call")


def _labelled(cut: MonoCut, name: str) -> MonoCut:
    """The cut as a finished call; how many clips its speaker has stays that of the original."""
    label = cut.supervisions[0]
    label = replace(label, id=name, custom={**label.custom, "line": CALL})
    return replace(cut, id=name, supervisions=[label])


def _inventory(split: Split) -> tuple[list[int], str]:
    """Utterances in each shard, and a digest of all labels."""
    counts, digest = [], hashlib.sha256()
    for shard in split.shards:
        with open_best(shard.cuts, "rb") as file:
            manifest = file.read()
        counts.append(manifest.count(b"\n"))
        digest.update(manifest)
    return counts, digest.hexdigest()[:16]


def _parts(
    split: Split, counts: list[int], calls: TelephoneDataset, copies: int | None, clips: int
) -> Parts:
    """One copy after the other, so that those of an utterance are far apart.

    Args:
        split: what to degrade.
        counts: utterances in each of its shards.
        calls: what becomes of a cut.
        copies: None draws once and leaves the ids alone.
        clips: utterances per shard, if the source's own have more.
    """
    chunks = [
        (shard, slice(start, start + clips))
        for shard, count in zip(split.shards, counts, strict=True)
        for start in range(0, count, clips)
    ]
    draws: list[int | None] = [None] if copies is None else list(range(copies))
    parts = [
        Part(partial(_heard, calls, shard, chunk, copy), copy or 0, len(draws))
        for copy in draws
        for shard, chunk in chunks
    ]
    return Parts(len(parts), parts)


def degrade(settings: SimulateCalls) -> dict[str, Any]:
    """Write what the settings ask for; returns the index that lies in ``out`` too.

    Raises:
        ValueError: ``data`` has no train split, or ``out`` holds calls of something else.
    """
    splits = open_splits(settings.data)
    if "train" not in splits:
        raise ValueError(f"{settings.data}: no train split, from which babble is made")
    lines = ChannelSampler(settings.channel, BabblePool.of(splits["train"]))
    calls = TelephoneDataset(DEFAULT_TREE, lines, settings.seed)
    parts: dict[str, Parts] = {}
    digests: dict[str, str] = {}
    for name, split in splits.items():
        counts, digests[name] = _inventory(split)
        copies = settings.copies if name == "train" else None
        parts[name] = _parts(split, counts, calls, copies, settings.clips)
    made_from = {
        "channel": settings.channel,
        "copies": settings.copies,
        "seed": settings.seed,
        "clips": settings.clips,
        "manifests": digests,
    }
    return write_folder(
        settings.out, parts, made_from, audio_format="wav", workers=settings.workers
    )


if __name__ == "__main__":
    CliApp.run(SimulateCalls)
