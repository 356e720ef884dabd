"""Pictures of a prepared corpus: who is in it, how old, how long."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from model.labels import DEFAULT_TREE
from train.corpora.clip import Clip
from train.corpora.split import SPLITS

GENDERS = ("female", "male")
_GREY = "#777777"
_COLOUR = {"female": "#c1559a", "male": "#3b75af"}


@dataclass(frozen=True)
class Picture:
    """A PNG and its heading."""

    title: str
    png: bytes

    @property
    def base64(self) -> str:
        """For a data URL."""
        return base64.b64encode(self.png).decode()


def draw(clips: Sequence[Clip]) -> list[Picture]:
    """All pictures; ``clips`` must not be empty."""
    return [
        Picture("Speakers by gender and age band", _bands(clips, hours=False)),
        Picture("Hours by gender and age band", _bands(clips, hours=True)),
        Picture("Ages, lengths and clips per speaker", _histograms(clips)),
    ]


def _png(figure: Figure) -> bytes:
    FigureCanvasAgg(figure)  # not pyplot: no global state, no display
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, metadata={"Software": None})
    return file.getvalue()


def _bands(clips: Sequence[Clip], *, hours: bool) -> bytes:
    """One panel a split, since dev and test would vanish beside train."""
    bands = [*DEFAULT_TREE.age_band, ""]
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    panels = figure.subplots(1, len(SPLITS))
    for split, axes in zip(SPLITS, panels, strict=True):
        for offset, gender in zip((-0.2, 0.2), GENDERS, strict=True):
            value = _by_band(clips, split, gender, hours=hours)
            heights = [value[band] for band in bands]
            bars = axes.bar(
                np.arange(len(bands)) + offset, heights, 0.4, label=gender, color=_COLOUR[gender]
            )
            axes.bar_label(bars, [_label(height) for height in heights], fontsize=6, padding=1)
        axes.set_xticks(np.arange(len(bands)), [band or "?" for band in bands], fontsize=8)
        axes.set_title(split, fontsize=10)
        axes.margins(y=0.12)
        _plain(axes)
    panels[0].set_ylabel("hours" if hours else "speakers")
    panels[0].legend(fontsize=8, frameon=False)
    return _png(figure)


def _label(height: float) -> str:
    """Three characters or so; nothing for nothing."""
    if height < 0.005:
        return ""
    digits = 2 if height < 1 else 1 if height < 10 and height % 1 else 0
    return f"{height:.{digits}f}"


def _by_band(
    clips: Sequence[Clip], split: str, gender: str, *, hours: bool
) -> defaultdict[str, float]:
    value: defaultdict[str, float] = defaultdict(float)
    counted: set[tuple[str, str, str]] = set()
    for clip in clips:
        utterance = clip.utterance
        if clip.split != split or utterance.gender != gender:
            continue
        person = (*clip.speaker, utterance.age_band)
        if hours:
            value[utterance.age_band] += clip.seconds / 3600
        elif person not in counted:
            counted.add(person)
            value[utterance.age_band] += 1
    return value


def _histograms(clips: Sequence[Clip]) -> bytes:
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    ages, lengths, counts = figure.subplots(1, 3)
    years = [
        [
            age
            for (*_, age) in sorted(
                {
                    (*c.speaker, c.utterance.age)
                    for c in clips
                    if c.utterance.gender == gender and c.utterance.age is not None
                }
            )
        ]
        for gender in GENDERS
    ]
    if any(years):
        colours = [_COLOUR[gender] for gender in GENDERS]
        ages.hist(years, bins=np.arange(0, 105, 5), stacked=True, color=colours, label=GENDERS)
        ages.legend(fontsize=8, frameon=False)
    else:
        ages.text(0.5, 0.5, "no exact ages", ha="center", transform=ages.transAxes)
    ages.set_xlabel("exact age, years")
    ages.set_ylabel("speakers")

    seconds = np.array([clip.seconds for clip in clips])
    edges = np.geomspace(seconds.min() * 0.99, seconds.max() * 1.01, 40)
    lengths.hist(seconds, bins=edges, color=_GREY)
    _decades(lengths, "x", edges[0], edges[-1])
    lengths.set_xlabel("length of a clip, seconds")
    lengths.set_ylabel("clips")

    per_speaker = list({clip.speaker: clip.speaker_clips for clip in clips}.values())
    edges = np.unique(np.round(np.geomspace(1, max(per_speaker) + 1, 30))) - 0.5
    drawn, *_ = counts.hist(per_speaker, bins=edges, color=_GREY)
    _decades(counts, "x", 0.6, edges[-1] + 1)
    _decades(counts, "y", 0.7, 1.5 * float(np.max(drawn)))
    counts.set_xlabel("clips of a speaker")
    counts.set_ylabel("speakers")
    for axes in (ages, lengths, counts):
        _plain(axes)
    return _png(figure)


def _decades(axes: Axes, axis: Literal["x", "y"], low: float, high: float) -> None:
    """A logarithmic axis with ticks one can read: 1, 2, 5, 10, 20."""
    ticks = [m * 10.0**e for e in range(-3, 8) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.set(**{f"{axis}scale": "log", f"{axis}lim": (low, high)})
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{tick:g}" for tick in ticks])
    getattr(axes, f"{axis}axis").set_minor_locator(NullLocator())


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
