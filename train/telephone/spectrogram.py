"""Spectrograms side by side, to see what a channel did."""

from __future__ import annotations

import io
from collections.abc import Sequence
from textwrap import fill
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from streamer.audio.codec import SAMPLE_RATE, Samples

WINDOW, HOP = 256, 64
"""Samples of the Hann window and its step: 32 and 8 ms."""
RANGE_DB = (-110.0, -30.0)
"""Black and white, dB of a sine relative to full scale; the same in all pictures."""
COLUMNS = 4


class Panel(NamedTuple):
    """One picture among others."""

    title: str
    samples: Samples


def spectrogram_db(samples: Samples) -> NDArray[np.float64]:
    """Levels in dB relative to a full-scale sine: [129 frequencies to 4 kHz, frames]."""
    x = np.pad(samples.astype(np.float64) / 32768, (0, max(0, WINDOW - len(samples))))
    window = np.hanning(WINDOW)
    frames = np.lib.stride_tricks.sliding_window_view(x, WINDOW)[::HOP] * window
    amplitude = np.abs(np.fft.rfft(frames, axis=1)).T / (window.sum() / 2)
    levels: NDArray[np.float64] = 20 * np.log10(np.maximum(amplitude, 1e-7))
    return levels


def side_by_side(panels: Sequence[Panel]) -> bytes:
    """A PNG of all panels, on common axes of time, frequency and level; at most four a row."""
    columns = min(COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(5.2 * columns, 3.2 * rows), layout="constrained")
    FigureCanvasAgg(figure)  # not pyplot: no global state, no display
    longest = max(len(panel.samples) for panel in panels) / SAMPLE_RATE
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for axes, panel in zip(grid.flat, panels, strict=False):
        levels = spectrogram_db(panel.samples)
        seconds = levels.shape[1] * HOP / SAMPLE_RATE
        image = axes.imshow(
            levels,
            origin="lower",
            aspect="auto",
            extent=(0, seconds, 0, SAMPLE_RATE / 2000),
            vmin=RANGE_DB[0],
            vmax=RANGE_DB[1],
            cmap="magma",
        )
        axes.set_title(fill(panel.title, 72), fontsize=7, family="monospace", loc="left")
        axes.set_xlim(0, max(longest, HOP / SAMPLE_RATE))
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    figure.supxlabel("seconds", fontsize=8)
    figure.supylabel("kHz", fontsize=8)
    figure.colorbar(image, ax=grid, label="dB full scale", shrink=0.8, pad=0.01)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100, metadata={"Software": None})
    return file.getvalue()
