"""What was found about the labels, for people: a table, a picture, a page."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from train.label_quality.issues import Verdict

HEADER = ("task", "corpus", "speakers judged", "flagged", "their clips", "by pitch", "both")
KEYS = ("task", "corpus", "judged", "flagged", "clips", "by_pitch", "both")
COLOURS = {"female": "#d55e00", "male": "#0072b2", "child": "#009e73", "adult": "#56b4e9"}
"""Colours of Okabe and Ito, distinct for colour-blind readers too."""
LIMITS = (
    "A list of doubts, not of errors: the voice cannot tell a wrong label from an unusual voice. "
    "Gender is judged from 16 years on; children's is not. Age is judged as child against adult "
    "inside one corpus only; decades are not. Labels are perceived or self-declared."
)

Result = Mapping[str, Any]


def _rows(result: Result) -> list[list[str]]:
    return [
        ["-" if row[key] is None else str(row[key]) for key in KEYS] for row in result["corpora"]
    ]


def _facts(result: Result) -> list[str]:
    rule = result["pitch_rule_hz"]
    nowhere: dict[str, list[str]] = {}
    for row in result["skipped"]:
        if not row["label"]:
            nowhere.setdefault(row["task"], []).append(row["among"])
    return [
        f"{result['listed']} of {result['utterances']} utterances of {result['split']} listed with "
        f"weight {result['weight']:g}; {result['without_voice']} have too little voice to judge.",
        f"By pitch: a male median above {rule['male_above']:g} Hz or a female one below "
        f"{rule['female_below']:g} Hz, the plain rule for comparison.",
        *(
            f"Not judged, too few speakers with a label to compare: {task} in {', '.join(where)}."
            for task, where in nowhere.items()
        ),
        LIMITS,
    ]


def show(result: Result, console: Console) -> None:
    """Print counts and limits to a terminal."""
    table = Table(title="Labels that contradict the voice", title_justify="left")
    for number, name in enumerate(HEADER):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number < 2)
    for row in _rows(result):
        table.add_row(*row)
    console.print(table)
    for line in _facts(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _picture(
    result: Result, verdicts: Sequence[tuple[str, Verdict]], pitch: Mapping[str, float]
) -> bytes:
    """PNG: each speaker by pitch and by the probability of the given label, flagged ones ringed."""
    tasks = sorted({task for task, _ in verdicts}, reverse=True) or ["gender"]
    drawing = Figure(figsize=(6.5 * len(tasks), 4.5), layout="constrained")
    FigureCanvasAgg(drawing)
    for axes, task in zip(drawing.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
        mine = [v for t, v in verdicts if t == task]
        for label in sorted({v.given for v in mine}):
            group = [v for v in mine if v.given == label]
            axes.scatter(
                [pitch[v.speaker] for v in group],
                [v.quality for v in group],
                s=9,
                alpha=0.5,
                color=COLOURS.get(label, "grey"),
                label=f"given: {label} ({len(group)})",
            )
        listed = [v for v in mine if v.flagged and v.confidence >= result["least_confidence"]]
        axes.scatter(
            [pitch[v.speaker] for v in listed],
            [v.quality for v in listed],
            s=45,
            facecolors="none",
            edgecolors="black",
            label=f"flagged ({len(listed)})",
        )
        axes.set(
            xlabel="median pitch of the speaker, Hz",
            ylabel="probability of the given label",
            ylim=(-0.03, 1.03),
            title=task.replace("_", " "),
        )
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    file = io.BytesIO()
    drawing.savefig(file, dpi=110, format="png")
    return file.getvalue()


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{html.escape(cell)}</{tag}>' for cell in cells)}</tr>"

    return f"<table>{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"


def write_report(
    result: Result,
    verdicts: Sequence[tuple[str, Verdict]],
    pitch: Mapping[str, float],
    path: Path,
) -> None:
    """Write ``path``: a picture if it ends in .png, else a page that needs no other file.

    Args:
        result: counts, as ``train/label_noise.py`` makes them.
        verdicts: task and verdict of every speaker that was judged.
        pitch: median in Hz by speaker.
        path: file to write. A page names speakers: it is as confidential as the corpus.
    """
    image = _picture(result, verdicts, pitch)
    if path.suffix == ".png":
        path.write_bytes(image)
        return
    listed = sorted(
        (
            (task, v)
            for task, v in verdicts
            if v.flagged and v.confidence >= result["least_confidence"]
        ),
        key=lambda pair: -pair[1].confidence,
    )
    speakers = [
        [
            task,
            v.speaker,
            v.given,
            v.suggested,
            f"{v.confidence:.2f}",
            f"{pitch[v.speaker]:.0f}",
            str(v.clips),
        ]
        for task, v in listed
    ]
    columns = ("task", "speaker", "given", "suggested", "confidence", "pitch, Hz", "clips")
    encoded = base64.b64encode(image).decode()
    path.write_text(
        "<!doctype html><html lang='en'><meta charset='utf-8'>"
        "<title>Labels that contradict the voice</title><style>body{font-family:sans-serif;"
        "max-width:70em;margin:2em auto}table{border-collapse:collapse}td,th{border-bottom:1px "
        "solid #ccc;padding:.2em .8em;text-align:left}</style>"
        "<h1>Labels that contradict the voice</h1>"
        + "".join(f"<p>{html.escape(fact)}</p>" for fact in _facts(result))
        + _html_table(HEADER, _rows(result))
        + f"<p><img alt='speakers by pitch and by probability of their label' "
        f"src='data:image/png;base64,{encoded}'></p>"
        + _html_table(columns, speakers)
        + "</html>\n",
        encoding="utf-8",
    )
