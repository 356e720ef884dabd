"""Hear and see what the telephone channel does to speech.

    python -m train.preview_channel my/recordings --count 6 --each-effect

Writes for each utterance the clean and the degraded WAV (8 kHz), a picture of their spectrograms
side by side, and ``index.html`` with players and what was drawn. Open it in a browser.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from pydantic import Field, ValidationError
from pydantic_settings import CliApp, CliPositionalArg, SettingsConfigDict
from rich.console import Console
from rich.progress import track

from streamer.audio.codec import SAMPLE_RATE, Samples
from train.command import Command
from train.corpora.audio import read_audio
from train.telephone import EFFECTS, PRESETS, ChannelSettings, Plan, TalkerSource, TelephoneChannel
from train.telephone.noise import SUFFIXES
from train.telephone.spectrogram import Panel, side_by_side

FEWEST_TALKERS = 8
"""Utterances read at least, where there are as many, so that babble has other talkers."""


class PreviewChannel(Command):
    """Write examples of the telephone channel to listen to and to look at.

    IN is an audio file, a folder of audio files, or a folder of train.prepare or train.shard. The
    same seed and input give the same examples. Look at OUT/index.html afterwards.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.preview_channel")

    source: CliPositionalArg[Path] = Field(validation_alias="in")
    """file or folder to take clean speech from"""
    out: Path = Path("runs/listen")
    """folder for WAVs, pictures and index.html; made if absent"""
    count: int = Field(6, ge=1)
    """utterances, drawn at random"""
    seed: int = Field(1, ge=0)
    """of the utterances and of their channels"""
    preset: Literal["clean", "simple", "full"] = "full"
    """shares and ranges of the effects"""
    each_effect: bool = False
    """also one example of every effect alone"""
    noise: Path | None = None
    """folder of recorded backgrounds; without one they are synthesised"""
    music: Path | None = None
    """folder of recorded music; without one it is synthesised"""
    split: str = "train"
    """of a prepared or sharded corpus"""
    as_json: bool = Field(default=False, validation_alias="json")
    """print what was written as JSON to standard output"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        try:
            examples = write_examples(self)
        except (ValueError, OSError, soundfile.SoundFileError) as error:
            sys.exit(f"train.preview_channel: {error}")
        if self.as_json:
            print(json.dumps(examples, indent=1))
        else:
            Console().print(f"listen: {self.out / 'index.html'}", soft_wrap=True)


@dataclass(frozen=True)
class Clean:
    """One utterance: where it comes from, int16 [n] at 8 kHz, who speaks as far as is known."""

    source: str
    samples: Samples
    speaker: str


def write_examples(settings: PreviewChannel) -> list[dict[str, Any]]:
    """Draw, degrade and write; what was written, as in ``--json``.

    Raises:
        ValueError: no audio where it was looked for.
        OSError: audio cannot be read, or nothing can be written.
    """
    utterances = _draw(settings)
    channel_settings = PRESETS[settings.preset].model_copy(
        update={"noise": settings.noise, "music": settings.music}
    )
    settings.out.mkdir(parents=True, exist_ok=True)
    examples = []
    chosen = utterances[: settings.count]
    for number, clean in enumerate(track(chosen, "degrading", console=Console(stderr=True))):
        babble = _other_talker(clean.speaker, utterances)
        versions = _versions(settings, channel_settings, number, clean.samples, babble)
        examples.append(_write(settings.out, f"{number + 1:02d}", clean, versions))
    page = _page(settings, examples)
    (settings.out / "index.html").write_text(page, encoding="utf-8")
    return examples


def _draw(settings: PreviewChannel) -> list[Clean]:
    """Read the requested utterances, and more for babble where there are as many."""
    count = max(settings.count, FEWEST_TALKERS)
    folder = settings.source
    if any(folder.glob("cuts.*.jsonl.gz")) or (folder / "index.json").exists():
        found = list(_read_cuts(folder, settings, count))
    else:
        files = [folder] if folder.is_file() else sorted(folder.rglob("*"))
        files = [file for file in files if file.suffix.lower() in SUFFIXES]
        random = np.random.default_rng([settings.seed, 0])
        drawn = random.permutation(len(files))[:count]
        sources = [str(files[n]) for n in drawn]
        found = [Clean(source, read_audio(source, SAMPLE_RATE), source) for source in sources]
    if not found:
        raise ValueError(f"in: no audio in {folder}")
    return found


def _read_cuts(folder: Path, settings: PreviewChannel, count: int) -> Iterator[Clean]:
    """Utterances of a prepared or sharded corpus, drawn evenly among the first thousand."""
    # Imported late: it brings torch, and a folder of files needs neither.
    from train.data.dataset import audio_of, open_data  # noqa: PLC0415

    random = np.random.default_rng([settings.seed, 0])
    found = list(islice(open_data(folder, settings.split), 1000))
    for number in random.permutation(len(found))[:count]:
        cut = found[number]
        yield Clean(cut.id, audio_of(cut, SAMPLE_RATE), cut.supervisions[0].speaker)


def _other_talker(speaker: str, utterances: list[Clean]) -> TalkerSource | None:
    """A source of talkers from utterances of other speakers."""
    spoken = [u.samples for u in utterances if u.speaker != speaker and len(u.samples)]
    if not spoken:
        return None

    def talker(random: np.random.Generator, n: int) -> Samples:
        other = spoken[int(random.integers(len(spoken)))]
        start = int(random.integers(len(other)))
        return np.resize(np.roll(other, -start), n)

    return talker


def _versions(
    settings: PreviewChannel,
    shares: ChannelSettings,
    number: int,
    clean: Samples,
    babble: TalkerSource | None,
) -> Iterator[tuple[str, Plan, Samples]]:
    """Name, plan and degraded speech: the whole channel, then each effect alone if requested."""
    kinds: dict[str, ChannelSettings] = {settings.preset: shares}
    if settings.each_effect:
        kinds |= {effect: shares.only(effect) for effect in EFFECTS}
    for kind, (name, effects) in enumerate(kinds.items()):
        channel = TelephoneChannel(effects, babble=babble)
        random = np.random.default_rng([settings.seed, 1, number, kind])
        plan = channel.draw(random, len(clean))
        if plan.effects or name == settings.preset:
            yield name, plan, plan(clean, random)


def _write(
    out: Path, name: str, clean: Clean, versions: Iterator[tuple[str, Plan, Samples]]
) -> dict[str, Any]:
    """WAVs and picture of one utterance; its record."""
    record: dict[str, Any] = {
        "source": clean.source,
        "clean": f"{name}_clean.wav",
        "picture": f"{name}.png",
        "versions": [],
    }
    soundfile.write(out / record["clean"], clean.samples, SAMPLE_RATE, "PCM_16")
    panels = [Panel("clean", clean.samples)]
    for kind, plan, samples in versions:
        file = f"{name}_{kind}.wav"
        soundfile.write(out / file, samples, SAMPLE_RATE, "PCM_16")
        drawn = "; ".join(map(str, plan.effects))
        panels.append(Panel(f"{kind}: {drawn or 'nothing'}", samples))
        record["versions"].append(
            {
                "name": kind,
                "wav": file,
                "lead_seconds": plan.lead / SAMPLE_RATE,
                "effects": plan.describe(),
            }
        )
    (out / record["picture"]).write_bytes(side_by_side(panels))
    return record


_STYLE = """body{font:15px/1.4 sans-serif;max-width:75em;margin:2em auto;padding:0 1em}
img{max-width:100%}table{border-collapse:collapse}td{padding:.2em .6em;vertical-align:middle}
code{font-size:85%}"""


def _page(settings: PreviewChannel, examples: list[dict[str, Any]]) -> str:
    """The page with players and pictures."""
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><title>Telephone channel</title>",
        f"<style>{_STYLE}</style><h1>Telephone channel</h1>",
        f"<p>Preset {settings.preset}, seed {settings.seed}. Spectrograms share one scale.</p>",
    ]
    for number, example in enumerate(examples, 1):
        parts.append(f"<h2>{number}: {escape(Path(example['source']).name)}</h2><table>")
        parts.append(_row("clean", example["clean"], ""))
        for version in example["versions"]:
            drawn = "; ".join(
                " ".join(str(value) if key == "effect" else f"{key}={value}" for key, value in e)
                for e in (effect.items() for effect in version["effects"])
            )
            parts.append(_row(version["name"], version["wav"], drawn))
        parts.append(f"</table><p><img src={example['picture']} alt=spectrograms></p>")
    return "\n".join([*parts, "</html>", ""])


def _row(name: str, wav: str, drawn: str) -> str:
    player = f"<audio controls preload=none src={wav}></audio>"
    return f"<tr><td>{escape(name)}<td>{player}<td><code>{escape(drawn)}</code>"


def main(args: list[str] | None = None) -> None:
    """Run with these arguments, or those of the process; exits with a message on bad ones."""
    try:
        CliApp.run(PreviewChannel, cli_args=args)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        sys.exit("\n".join(f"train.preview_channel: {fault}" for fault in faults))


if __name__ == "__main__":
    main()
