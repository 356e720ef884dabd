"""Copy a prepared corpus into shards that stream: FLAC in tar archives.

    python -m train.shard runs/prepared runs/shards

Needed when decoding is dear (Opus, MP3), when audio lies in zip archives, or when a corpus lives
in object storage. Layout: Lhotse Shar (``cuts.NNNNNN.jsonl.gz`` beside ``recording.NNNNNN.tar``)
in a folder per split, ``rejected.NNNNNN.jsonl`` with what could not be decoded, and
``index.json``. A run that was cut off goes on where it stopped.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import replace
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
from lhotse import AudioSource, CutSet, MonoCut, Recording
from lhotse.shar.writers import AudioTarWriter
from lhotse.shar.writers.cut import JsonlShardWriter
from pydantic import Field
from pydantic_settings import CliApp, CliPositionalArg, SettingsConfigDict
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from train.command import Command
from train.loading.data import INDEX, SPLITS, Shard, Split, audio_of, speaker_clips, utterance_of

SETTINGS = "shards.json"
"""Written first: what the shards of this folder are made from, so that a rerun does not mix."""


AHEAD = 4
"""Shards handed out to processes at a time: each holds its cuts' labels in memory."""


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
        for name, split in index["splits"].items():
            clips = sum(cell["clips"] for cell in split["cells"])
            print(f"{name}: {clips} utterances in {len(split['shards'])} shards")
        if index["rejected"]:
            print(f"{index['rejected']} could not be decoded: see {self.out}/*/rejected.*.jsonl")


class _Files(NamedTuple):
    """Names of one shard's files."""

    cuts: Path
    audio: Path
    rejected: Path

    @staticmethod
    def of(folder: Path, number: int) -> _Files:
        return _Files(
            folder / f"cuts.{number:06d}.jsonl.gz",
            folder / f"recording.{number:06d}.tar",
            folder / f"rejected.{number:06d}.jsonl",
        )


def _write_shard(cuts: list[MonoCut], folder: Path, number: int, rate: int) -> None:
    """One shard; its manifest is moved into place last, so what has one is whole."""
    partial = folder / f".partial-{number:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    files = _Files.of(partial, number)
    kept, rejected = 0, []
    with ExitStack() as stack:
        manifest = stack.enter_context(JsonlShardWriter(str(files.cuts), None))
        tar = stack.enter_context(AudioTarWriter(str(files.audio), None))
        for cut in cuts:
            stored_rate = min(rate, cut.recording.sampling_rate)
            try:
                samples = audio_of(cut, stored_rate)
            except (OSError, ValueError, soundfile.SoundFileError) as error:
                source = utterance_of(cut).source
                rejected.append({"id": cut.id, "source": source, "reason": str(error)})
                continue
            stored = Recording(
                id=cut.id,
                sources=[AudioSource(type="shar", channels=[0], source="")],
                sampling_rate=stored_rate,
                num_samples=len(samples),
                duration=len(samples) / stored_rate,
            )
            tar.write(cut.id, samples[None] / np.float32(32768), stored_rate, manifest=stored)
            span = {"start": 0.0, "duration": stored.duration}
            label = replace(cut.supervisions[0], recording_id=cut.id, channel=0, **span)
            manifest.write(replace(cut, channel=0, recording=stored, supervisions=[label], **span))
            kept += 1
    if not kept:  # the writers open their files with the first cut
        files.cuts.write_bytes(gzip.compress(b""))
        files.audio.touch()
    files.rejected.write_text("".join(json.dumps(r) + "\n" for r in rejected), encoding="utf-8")
    final = _Files.of(folder, number)
    files.audio.replace(final.audio)
    files.rejected.replace(final.rejected)
    files.cuts.replace(final.cuts)
    partial.rmdir()


def _write_split(
    source: Path, folder: Path, pool: Executor, *, clips: int, rate: int, progress: Progress
) -> None:
    """All shards of a split that are not there yet; memory holds a few shards' manifests."""
    with gzip.open(source) as lines:
        total = sum(1 for _ in lines)
    task = progress.add_task(folder.name, total=-(-total // clips))
    cuts = iter(CutSet.from_jsonl_lazy(source))
    running: set[Future[None]] = set()
    for number in count():
        chunk = list(islice(cuts, clips))
        if chunk and _Files.of(folder, number).cuts.exists():
            progress.advance(task)
        elif chunk:
            running.add(pool.submit(_write_shard, chunk, folder, number, rate))
        while len(running) > AHEAD or (running and not chunk):
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for job in done:
                job.result()
                progress.advance(task)
        if not chunk:
            return


def _indexed(folder: Path) -> tuple[Split, int]:
    """What the finished shards of a split hold, and how many utterances they had to reject."""
    content, rejected = Split(), 0
    for path in sorted(folder.glob("cuts.*.jsonl.gz")):
        files = _Files.of(folder, int(path.name.split(".")[1]))
        before = content.clips
        for cut in CutSet.from_jsonl_lazy(path):
            content.count(utterance_of(cut), speaker_clips(cut))
        if content.clips > before:
            content.shards.append(Shard(str(files.cuts), str(files.audio)))
        rejected += len(files.rejected.read_text(encoding="utf-8").splitlines())
    return content, rejected


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
    wanted = {"clips": clips, "rate": rate, "manifests": digests}
    out.mkdir(parents=True, exist_ok=True)
    settings = out / SETTINGS
    if settings.exists() and json.loads(settings.read_text()) != wanted:
        raise ValueError(f"{out}: holds shards made with other settings, see {SETTINGS} there")
    settings.write_text(json.dumps(wanted, indent=1))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    splits, faults = {}, 0
    with (
        Progress(*columns, TextColumn("shards"), TimeElapsedColumn()) as progress,
        ProcessPoolExecutor(jobs, get_context("spawn")) as pool,
    ):
        for name, source in sources.items():
            (out / name).mkdir(exist_ok=True)
            _write_split(source, out / name, pool, clips=clips, rate=rate, progress=progress)
            content, rejected = _indexed(out / name)
            splits[name] = content.to_dict(str(out))
            faults += rejected
    index = {"splits": splits, "rejected": faults}
    partial = out / f".{INDEX}"
    partial.write_text(json.dumps(index, indent=1))
    partial.replace(out / INDEX)
    return index


if __name__ == "__main__":
    CliApp.run(ShardSettings)
