"""Writing shards: what the commands share that turn a corpus into a folder that streams.

Layout: Lhotse Shar (``cuts.NNNNNN.jsonl.gz`` beside ``recording.NNNNNN.tar``) in a folder per
split, ``rejected.NNNNNN.jsonl`` with what was left out, ``shards.json`` with the settings and last
``index.json``. The same arguments write the same bytes, by any number of processes and stops.
"""

from __future__ import annotations

import gzip
import json
import os
import shutil
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from io import BytesIO
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal, NamedTuple

import soundfile
from lhotse import AudioSource, CutSet, MonoCut, Recording
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamer.audio.codec import Samples
from train.data.dataset import INDEX, Shard, Split, speaker_clips, utterance_of

SETTINGS = "shards.json"
"""Written first: what the shards of this folder are made from, so that a rerun does not mix."""
_PARTIAL = ".partial-"

AudioFormat = Literal["flac", "wav"]
"""Small on disk, or cheap to read."""


class Stored(NamedTuple):
    """An utterance for a shard.

    Attributes:
        cut: id and labels.
        samples: int16 [n].
        rate: of the samples, Hz.
    """

    cut: MonoCut
    samples: Samples
    rate: int


class LeftOut(NamedTuple):
    """An utterance that the shard has to do without.

    Attributes:
        id: of its cut.
        source: where its audio lies, empty where that is an archive of shards.
        reason: why, for people.
    """

    id: str
    source: str
    reason: str


Contents = Callable[[], Iterable[Stored | LeftOut]]
"""Makes what belongs into one shard, in a process of its own: has to be picklable."""


class Part(NamedTuple):
    """One shard to be written.

    Attributes:
        contents: what goes in.
        draw, draws: see :class:`train.data.dataset.Shard`.
    """

    contents: Contents
    draw: int = 0
    draws: int = 1


class Parts(NamedTuple):
    """The shards of a split.

    Attributes:
        total: how many there are.
        parts: made one by one, for memory should hold a few shards only.
    """

    total: int
    parts: Iterable[Part]


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


def _encoded(stored: Stored, audio_format: AudioFormat) -> bytes:
    file = BytesIO()
    soundfile.write(file, stored.samples, stored.rate, "PCM_16", format=audio_format.upper())
    return file.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


def _manifest(stored: Stored) -> MonoCut:
    """The cut as the shard describes it: all of its recording, whose samples are in the archive."""
    cut, samples, rate = stored
    recording = Recording(
        id=cut.id,
        sources=[AudioSource(type="shar", channels=[0], source="")],
        sampling_rate=rate,
        num_samples=len(samples),
        duration=len(samples) / rate,
    )
    span = {"start": 0.0, "duration": recording.duration}
    label = replace(cut.supervisions[0], recording_id=cut.id, channel=0, **span)
    return replace(cut, channel=0, recording=recording, supervisions=[label], **span)


def _lines(rows: Iterable[Mapping[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def _write_shard(audio_format: AudioFormat, contents: Contents, folder: Path, number: int) -> None:
    """One shard; its manifest is moved into place last, so what has one is whole."""
    unfinished = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=folder))
    files, final = _Files.of(unfinished, number), _Files.of(folder, number)
    cuts, rejected = [], []
    with tarfile.open(files.audio, "w") as tar:
        for item in contents():
            if isinstance(item, LeftOut):
                rejected.append(item._asdict())
                continue
            cut = _manifest(item)
            _add(tar, f"{cut.id}.{audio_format}", _encoded(item, audio_format))
            _add(tar, f"{cut.id}.json", _lines([cut.recording.to_dict()]))
            cuts.append(cut.to_dict())
    files.rejected.write_bytes(_lines(rejected))
    files.cuts.write_bytes(gzip.compress(_lines(cuts), mtime=0))  # no clock: the same bytes
    files.audio.replace(final.audio)
    files.rejected.replace(final.rejected)
    files.cuts.replace(final.cuts)
    unfinished.rmdir()


def _write_split(
    folder: Path,
    parts: Parts,
    write: Callable[[Contents, Path, int], None],
    pool: Executor,
    ahead: int,
    progress: Progress,
) -> list[Shard]:
    """All shards of a split that are not there yet, a few at a time; returns all there are."""
    task = progress.add_task(folder.name, total=parts.total)
    shards: list[Shard] = []
    running: set[Future[None]] = set()

    def wait_for(most: int) -> None:
        while len(running) > most:
            done = wait(running, return_when=FIRST_COMPLETED).done
            for job in done:
                job.result()
                progress.advance(task)
            running.difference_update(done)

    for number, part in enumerate(parts.parts):
        files = _Files.of(folder, number)
        shards.append(Shard(str(files.cuts), str(files.audio), part.draw, part.draws))
        if files.cuts.exists():
            progress.advance(task)
            continue
        running.add(pool.submit(write, part.contents, folder, number))
        wait_for(ahead)  # each may hold its cuts' labels in memory
    wait_for(0)
    return shards


def _indexed(folder: Path, shards: list[Shard]) -> tuple[Split, int]:
    """What finished shards hold, and how many utterances they had to leave out."""
    content, rejected = Split(), 0
    for number, shard in enumerate(shards):
        before = content.clips
        for cut in CutSet.from_jsonl_lazy(shard.cuts):
            content.count(utterance_of(cut), speaker_clips(cut))
        if content.clips > before:
            content.shards.append(shard)
        rejected += len(_Files.of(folder, number).rejected.read_bytes().splitlines())
    return content, rejected


def _claim(out: Path, settings: dict[str, Any]) -> None:
    """Note what the folder is made from, or raise ValueError if it is of something else."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / SETTINGS
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        differing = [
            f"{name} {old.get(name)}, not {settings.get(name)}"
            for name in sorted(old.keys() | settings.keys())
            if old.get(name) != settings.get(name)
        ]
        if differing:
            raise ValueError(f"{out}: holds shards of other settings: {'; '.join(differing)}")
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for work for ever."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def write_folder(
    out: Path,
    splits: Mapping[str, Parts],
    settings: dict[str, Any],
    *,
    audio_format: AudioFormat,
    workers: int,
) -> dict[str, Any]:
    """Write the shards of all splits and their index, which is returned.

    Args:
        out: made if absent; shards that an earlier run with the same settings finished are kept.
        splits: what to write.
        settings: everything that the shards' bytes follow from, as JSON values.
        audio_format: of the files in the archives.
        workers: processes.

    Raises:
        ValueError: ``out`` holds shards of other settings, which are named.
    """
    _claim(out, settings)
    write = partial(_write_shard, audio_format)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    index: dict[str, Any] = {"splits": {}, "rejected": 0}
    with (
        Progress(*columns, TextColumn("shards"), TimeElapsedColumn()) as progress,
        ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent) as pool,
    ):
        for name, parts in splits.items():
            folder = out / name
            folder.mkdir(exist_ok=True)
            for unfinished in folder.glob(f"{_PARTIAL}*"):  # of a run that was cut off
                shutil.rmtree(unfinished)
            shards = _write_split(folder, parts, write, pool, workers + 1, progress)
            content, rejected = _indexed(folder, shards)
            index["splits"][name] = content.to_dict(str(out))
            index["rejected"] += rejected
    unfinished = out / f".{INDEX}"
    unfinished.write_text(json.dumps(index, indent=1), encoding="utf-8")
    unfinished.replace(out / INDEX)
    return index


def summary(index: dict[str, Any], out: Path) -> str:
    """What was written, for people."""
    lines = [
        f"{name}: {sum(cell['clips'] for cell in split['cells'])} utterances "
        f"in {len(split['shards'])} shards"
        for name, split in index["splits"].items()
    ]
    if index["rejected"]:
        lines.append(f"{index['rejected']} left out: see {out}/*/rejected.*.jsonl")
    return "\n".join(lines)
