"""The result of peers.py for people: tables in Markdown, a picture."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from neighbours.answerers import OURS

from gender_peers.calls import CONDITIONS, Condition

Row = Mapping[str, Any]
TITLES: dict[Condition, str] = {
    "telephone": "8 kHz mu-law telephone",
    "wideband": "clean 16 kHz",
}
COLOURS: dict[Condition, str] = {"telephone": "#0072b2", "wideband": "#d55e00"}
"""Okabe and Ito's, told apart by colour-blind readers too."""
MARKERS: dict[Condition, str] = {"telephone": "o", "wideband": "s"}
NO_FIGURE = "–"  # noqa: RUF001 - an en dash, as tables have it
HONESTY = (
    "Labels are binary gender as the corpora state it; the telephone is simulated: recordings "
    "coded as 8 kHz mu-law, no real line. Ours was trained, and the pitch threshold tuned, on "
    "other speakers of the same corpora; the other peers never met these corpora."
)


def command(result: Mapping[str, Any]) -> str:
    """What gives this result, without folders."""
    words = ["python", "benchmarks/peers.py", "--manifest", str(result["manifest"])]
    words += ["--split", str(result["split"])]
    words += ["--limit", str(result["limit"]), "--seed", str(result["seed"])] * bool(
        result["limit"]
    )
    words += ["--per-speaker"] * bool(result["per_speaker"])
    words += ["--band", str(result["band"])] * (result["band"] != "full")
    return shlex.join(words)


def shown(figure: Mapping[str, Any] | None, *, signed: bool = False) -> str:
    """Value and interval with three decimals."""
    if figure is None or figure["value"] is None:
        return NO_FIGURE
    sign = "+" if signed else ""
    text = f"{figure['value']:{sign}.3f}"
    if figure["interval"]:
        low, high = figure["interval"]
        text += f" [{low:{sign}.3f}, {high:{sign}.3f}]"
    return text.replace("-", "−")  # noqa: RUF001 - a minus sign


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, an empty line behind it."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines] + [""]


def markdown(result: Mapping[str, Any]) -> str:
    """Accuracy in each condition, cost, what did not run, and how it was made."""
    ran = [row for row in result["rows"] if not row["reason"]]
    unit = "one per speaker" if result["per_speaker"] else "one per utterance"
    lines = [
        "# Gender of adults: ours beside what one could install instead",
        "",
        "```sh",
        command(result),
        "```",
        "",
        f"- {result['calls']} calls, {unit}, of {result['speakers']} speakers "
        f"({result['female']} calls of women, {result['male']} of men), "
        f"{result['seconds_of_audio']:.0f} s of audio, median {result['median_seconds']:g} s; "
        f"split {result['split']}, {result['band']} band. Adults only: age known and no child.",
        "- A call without an answer counts as wrong. In brackets: 95 %, bootstrap over speakers.",
        f"- {HONESTY}",
        *_leads(result),
        "",
    ]
    for condition in CONDITIONS:
        lines += [f"## {TITLES[condition]}", ""]
        header = (
            "",
            "accuracy",
            "macro F1",
            "recall, women",
            "recall, men",
            "no answer",
            "right of answered",
        )
        body = []
        for row in ran:
            entry = row["conditions"][condition]
            threshold = entry["threshold_hz"]
            tuned = f" ({threshold:g} Hz)" if threshold and row["key"] == "pitch_tuned" else ""
            ahead = entry["ours_ahead"]
            body.append(
                (
                    row["title"] + tuned,
                    shown(entry["accuracy"]),
                    shown(entry["f1"]),
                    shown(entry["female_recall"]),
                    shown(entry["male_recall"]),
                    str(entry["unanswered"]),
                    shown(entry["accuracy_of_answered"]),
                    shown(ahead["f1"], signed=True) if ahead else NO_FIGURE,
                )
            )
        lines += table((*header, "macro F1, ours less theirs"), body)
    lines += ["## Cost", ""]
    lines += table(
        (
            "",
            "CPU-s per s of audio, 8 kHz",
            "16 kHz",
            "loading, CPU-s",
            "peak memory, MiB",
            "version",
            "what ran",
        ),
        [_cost(row) for row in ran],
    )
    lines += [
        f"User and system time of one process on one core and thread of {result['device']}, "
        "without loading; one call after the other. Ours hears messages of 100 ms and predicts "
        "while the call goes on, the others hear a whole call at once. Loading includes an answer.",
        "",
    ]
    missing = [row for row in result["rows"] if row["reason"]]
    if missing:
        lines += ["## Did not run", ""]
        lines += [f"- {row['title']}: {row['what']}. Reason: `{row['reason']}`" for row in missing]
        lines += [""]
    return "\n".join(lines)


def _leads(result: Mapping[str, Any]) -> list[str]:
    """How far ours is ahead of the best peer, and whether other speakers might turn it round."""
    lines = []
    titles = {row["key"]: row["title"] for row in result["rows"]}
    for condition in CONDITIONS:
        found = result["findings"][condition]
        if found["lead"] is None or found["lead"]["value"] is None:
            continue
        low, high = found["lead"]["interval"] or (0.0, 0.0)
        sure = "beyond" if low > 0 or high < 0 else "within"
        lines.append(
            f"- {TITLES[condition]}: macro F1 of ours {found['ours_f1']:.3f}, of the best peer "
            f"({titles[found['best_peer']]}) {found['best_peer_f1']:.3f}; ours less theirs "
            f"{shown(found['lead'], signed=True)}, {sure} the chance of which speakers were drawn."
        )
    return lines


def _cost(row: Row) -> tuple[str, ...]:
    spent = [f"{row['conditions'][c]['cpu_s_per_audio_s']:.4f}" for c in CONDITIONS]
    loading, memory = f"{row['load_cpu_s']:.1f}", f"{row['peak_mib']}"
    return row["title"], *spent, loading, memory, row["version"] or "", row["what"]


def picture(result: Mapping[str, Any], path: Path) -> None:
    """Macro F1 with intervals in both conditions, best on telephone on top, and CPU time beside."""
    ran = [row for row in result["rows"] if not row["reason"]]
    ran.sort(key=lambda row: float(row["conditions"]["telephone"]["f1"]["value"] or 0.0))
    with mpl.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        drawn = Figure(figsize=(11, 2.4 + 0.55 * len(ran)), layout="constrained")
        left, right = drawn.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        _dots(left, ran)
        _bars(right, ran)
        left.set_yticks(range(len(ran)), [row["title"] for row in ran])
        left.tick_params(axis="y", length=0)
        for label, row in zip(left.get_yticklabels(), ran, strict=True):
            label.set_fontweight("bold" if row["peer"] == OURS else "normal")
        drawn.suptitle(
            f"Gender of {result['calls']} adult calls of {result['speakers']} speakers: ours "
            "beside what one could install",
            x=0.01,
            ha="left",
        )
        handles, labels = left.get_legend_handles_labels()
        drawn.legend(handles, labels, loc="outside lower left", ncols=2, frameon=False)
        missing = [row["title"] for row in result["rows"] if row["reason"]]
        if missing:
            note = "did not run: " + "; ".join(missing)
            drawn.text(0.99, 0.02, note, ha="right", color="#666666", fontsize=9)
        drawn.savefig(path, dpi=150)


def _dots(axes: Axes, ran: Sequence[Row]) -> None:
    for shift, condition in ((0.14, CONDITIONS[0]), (-0.14, CONDITIONS[1])):
        for number, row in enumerate(ran):
            f1 = row["conditions"][condition]["f1"]
            value = f1["value"] or 0.0
            low, high = f1["interval"] or (value, value)
            axes.errorbar(
                value,
                number + shift,
                xerr=[[max(0.0, value - low)], [max(0.0, high - value)]],
                fmt=MARKERS[condition],
                color=COLOURS[condition],
                capsize=3,
                label=TITLES[condition] if number == 0 else None,
            )
            axes.annotate(
                f"{value:.3f}",
                (high, number + shift),
                (5, 0),
                textcoords="offset points",
                va="center",
                fontsize=8,
                color=COLOURS[condition],
            )
    axes.set_xlabel("macro F1, 95 % by bootstrap over speakers")
    axes.set_xlim(right=1.04)
    axes.grid(axis="x", color="#dddddd")
    axes.set_axisbelow(True)


def _bars(axes: Axes, ran: Sequence[Row]) -> None:
    costs = [1000 * row["conditions"]["telephone"]["cpu_s_per_audio_s"] for row in ran]
    axes.barh(range(len(ran)), costs, height=0.5, color="#999999")
    for number, (row, cost) in enumerate(zip(ran, costs, strict=True)):
        axes.annotate(
            f"{cost:.3g} ms, {row['peak_mib']} MiB",
            (cost, number),
            (5, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    axes.set_xlim(0, 1.7 * max(costs, default=1.0))
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("CPU-ms per s of telephone audio; memory")
