"""Copy a prepared corpus into shards that stream: FLAC in tar archives.

    python -m train.shard runs/prepared runs/shards

Needed when decoding is dear (Opus, MP3), when audio lies in zip archives, or when a corpus lives
in object storage. ``train.data.shards`` describes the folder. A run that was cut off
goes on where it stopped.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import soundfile
from lhotse import CutSet, MonoCut
from pydantic import Field
from pydantic_settings import CliApp, CliPositionalArg, SettingsConfigDict

from train.command import Command
from train.data.dataset import SPLITS, audio_of, utterance_of
from train.data.shards import LeftOut, Part, Parts, Stored, summary, write_folder


class ShardSettings(Command):
    """Copy a prepared corpus into shards that stream from disk or object storage."""

    model_config = SettingsConfigDict(cli_prog_name="python -m train.shard")

    prepared: CliPositionalArg[Path]
    """folder that train.prepare wrote"""
    out: CliPositionalArg[Path]
    """folder for the shards; an unfinished run there is continued"""
    clips: int = Field(1000, ge=1)
    """utterances per shard; every process of a training needs at least one shard of its own"""
    rate: int = Field(16000, ge=8000)
    """sample rate, Hz; recordings below it keep their own"""
    jobs: int = Field(2, ge=1)
    """processes"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        index = write_shards(
            self.prepared, self.out, clips=self.clips, rate=self.rate, jobs=self.jobs
        )
        print(summary(index, self.out))


def _decoded(cuts: list[MonoCut], rate: int) -> Iterator[Stored | LeftOut]:
    """What becomes of the utterances of one shard."""
    for cut in cuts:
        stored_rate = min(rate, cut.recording.sampling_rate)
        try:
            yield Stored(cut, audio_of(cut, stored_rate), stored_rate)
        except (OSError, ValueError, soundfile.SoundFileError) as error:
            yield LeftOut(cut.id, utterance_of(cut).source, str(error))


def _parts(manifest: Path, clips: int, rate: int) -> Parts:
    with gzip.open(manifest) as lines:
        total = sum(1 for _ in lines)
    cuts = iter(CutSet.from_jsonl_lazy(manifest))
    chunks = iter(lambda: list(islice(cuts, clips)), [])
    return Parts(-(-total // clips), (Part(partial(_decoded, chunk, rate)) for chunk in chunks))


def write_shards(
    prepared: Path, out: Path, *, clips: int = 1000, rate: int = 16000, jobs: int = 2
) -> dict[str, Any]:
    """Write all splits of ``prepared`` to ``out``; returns the index that lies there too.

    Args:
        prepared: folder that train.prepare wrote.
        out: made if absent; shards that an earlier run with the same arguments finished are kept.
        clips: utterances per shard.
        rate: highest sample rate stored, Hz.
        jobs: processes.

    Raises:
        ValueError: ``prepared`` is not such a folder, or ``out`` holds shards of something else.
    """
    sources = {name: prepared / f"cuts.{name}.jsonl.gz" for name in SPLITS}
    sources = {name: path for name, path in sources.items() if path.exists()}
    if not sources:
        raise ValueError(f"{prepared}: no cuts.*.jsonl.gz; train.prepare writes them")
    digests = {n: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for n, p in sources.items()}
    return write_folder(
        out,
        {name: _parts(path, clips, rate) for name, path in sources.items()},
        {"clips": clips, "rate": rate, "manifests": digests},
        audio_format="flac",
        workers=jobs,
    )


if __name__ == "__main__":
    CliApp.run(ShardSettings)
