"""Show both comparisons as tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.evaluation.tables import NO_FIGURE, Table, ranged

Row = Mapping[str, Any]
TITLES = {"telephone": "8 kHz mu-law telephone", "wideband": "clean 16 kHz"}
COLUMNS = {
    "accuracy": "accuracy",
    "f1": "macro F1",
    "female_recall": "recall, women",
    "male_recall": "recall, men",
    "accuracy_of_answered": "right of answered",
}
CAVEAT = (
    "Labels are binary gender as the corpora state it; the telephone is simulated: recordings "
    "coded as 8 kHz mu-law, no real line. Ours was trained, and the pitch threshold tuned, on "
    "other speakers of the same corpora; the other peers were not trained on them."
)


def _shown(figure: Row | None, *, signed: bool = False) -> str:
    return NO_FIGURE if figure is None else ranged(**figure, signed=signed)


def gender_tables(result: Row) -> list[Table]:
    """Make a table for each condition, one for the cost, and one for what did not run."""
    ran = [row for row in result["rows"] if not row["reason"]]
    made = []
    for condition, title in TITLES.items():
        rows: list[tuple[str, ...]] = []
        for row in ran:
            at = row["conditions"][condition]
            tuned = row["key"] == "pitch_tuned" and at["threshold_hz"]
            name = f"{row['title']} ({tuned:g} Hz)" if tuned else row["title"]
            ahead = at["ours_ahead"] and at["ours_ahead"]["f1"]
            figures = [_shown(at[key]) for key in COLUMNS]
            rows.append((name, *figures, str(at["unanswered"]), _shown(ahead, signed=True)))
        header = ("", *COLUMNS.values(), "no answer", "macro F1, ours less theirs")
        note = "A call without an answer counts as wrong. In brackets: 95 %, over speakers."
        made.append(Table(title, header, rows, note))
    costs = [
        (
            row["title"],
            *(f"{row['conditions'][c]['cpu_s_per_audio_s']:.4f}" for c in TITLES),
            *(f"{row['load_cpu_s']:.1f}", f"{row['peak_mib']}", row["version"] or "", row["what"]),
        )
        for row in ran
    ]
    header = ("", "CPU-s per s of audio, 8 kHz", "16 kHz", "loading, CPU-s", "peak memory, MiB")
    note = (
        f"User and system time of one process on one core and thread of {result['device']}, one "
        "call after the other. Ours gets messages of 100 ms and predicts while the call goes on, "
        "the others get a whole call. Loading includes the first answer."
    )
    made.append(Table("Cost", (*header, "version", "what ran"), costs, note))
    return [*made, _absent(result)]


def _absent(result: Row) -> Table:
    rows = [(row["title"], row["what"], row["reason"]) for row in result["rows"] if row["reason"]]
    return Table("Did not run", ("", "what", "reason"), rows)


def cost_tables(result: Row) -> list[Table]:
    """Make the table of CPU time, and one for what did not run."""
    rows = [
        (
            row["title"],
            f"{row['cpu_ms_per_call_s']:.3g}",
            "" if row["ratio"] is None else f"{row['ratio']:,g}",
            "yes" if row["running_predictions"] else "no",
            row["version"] or "",
            row["what"],
        )
        for row in result["rows"]
        if not row["reason"]
    ]
    header = ("", "CPU-ms per call-second", "times ours", "running predictions", "version")
    note = (
        f"Median of {result['rounds']} interleaved rounds on one core of {result['device']}; demo "
        f"calls of {result['seconds']} s, {result['speech_share']:.0%} speech, the same bytes for "
        f"all; ours with {result['calls']} calls side by side. Random weights cost the same as "
        "trained ones."
    )
    return [Table("CPU time", (*header, "what ran"), rows, note), _absent(result)]


def markdown(title: str, facts: Sequence[str], tables: Sequence[Table]) -> str:
    """Format a page; tables without a row are left out."""
    parts = [f"# {title}", "\n".join(f"- {fact}" for fact in facts)]
    for table in tables:
        if table.rows:
            parts += [f"## {table.title}", table.markdown(), *filter(None, [table.note])]
    return "\n\n".join(parts) + "\n"


def gender_facts(result: Row) -> list[str]:
    """State what was measured, and the lead of ours over the best peer."""
    unit = "one per speaker" if result["per_speaker"] else "one per utterance"
    lines = [
        f"{result['calls']} calls, {unit}, of {result['speakers']} speakers "
        f"({result['female']} calls of women, {result['male']} of men), "
        f"{result['seconds_of_audio']:.0f} s of audio; split {result['split']} of "
        f"{result['manifest']}, {result['band']} band. Adults only: age known and no child.",
        CAVEAT,
    ]
    for condition, title in TITLES.items():
        found = result["findings"][condition]
        if found["lead"] and found["lead"]["value"] is not None:
            lines.append(
                f"{title}: macro F1 of ours {found['ours_f1']:.3f}, of the best peer "
                f"({found['best_peer']}) {found['best_peer_f1']:.3f}; ours less theirs "
                f"{_shown(found['lead'], signed=True)}."
            )
    return lines
