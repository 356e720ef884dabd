"""What a prepared corpus holds and what it lost, as one HTML file with its pictures inside."""

from __future__ import annotations

import html
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from model.labels import DEFAULT_TREE
from train.corpora import pictures
from train.corpora.clip import Clip
from train.corpora.split import SPLITS
from train.corpora.utterance import Rejected

EXAMPLES = 5
"""Rejected files shown for each reason; all of them stand in rejected.jsonl."""
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 70em; margin: 2em auto; }
table { border-collapse: collapse; margin: 1em 0; } img { max-width: 100%; display: block; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; } td.sum { font-weight: 600; }
td.text { text-align: left; font-size: 90%; overflow-wrap: anywhere; } .none { color: #bbb; }
"""


def band_order() -> list[str]:
    """Bands of the label tree, youngest first, then the unknown age."""
    return [*DEFAULT_TREE.age_band, ""]


def render(
    clips: Sequence[Clip], rejected: Sequence[Rejected], summary: Mapping[str, Any], title: str
) -> str:
    """The report as HTML that needs no other file and no network.

    Args:
        clips: kept, with their splits.
        rejected: everything left out for a fault.
        summary: of the run, see ``train/prepare.py``.
        title: heading.
    """
    parts = [f"<h1>{html.escape(title)}</h1>", _overview(summary)]
    parts += [
        f'<h2>{html.escape(picture.title)}</h2><img alt="{html.escape(picture.title)}" '
        f'src="data:image/png;base64,{picture.base64}">'
        for picture in (pictures.draw(clips) if clips else [])
    ]
    by_corpus: defaultdict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        by_corpus[clip.utterance.corpus].append(clip)
    for corpus, members in sorted(by_corpus.items()):
        parts += [f"<h2>{html.escape(corpus)}</h2>", _counts(members)]
    parts.append(_rejections(rejected))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style><body>{''.join(parts)}</body></html>\n"
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells are HTML already, with or without their ``<td>``."""
    head = "".join(f"<th>{name}</th>" for name in header)
    body = "".join(
        "<tr>" + "".join(c if c.startswith("<td") else f"<td>{c}</td>" for c in row) + "</tr>"
        for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _overview(summary: Mapping[str, Any]) -> str:
    rows = [
        (split, f"{of['clips']:,}", f"{of['speakers']:,}", f"{of['hours']:.2f}")
        for split, of in summary["splits"].items()
    ]
    notes = (
        f"{summary['read']:,} labelled utterances read, {summary['kept']:,} kept, "
        f"{summary['capped']:,} left out over the cap of clips per speaker, "
        f"{sum(summary['rejected'].values()):,} files or records rejected. "
        f"{len(summary['leaked_speakers']):,} speakers stood in several splits of the corpus and "
        "were moved as a whole."
    )
    return f"<p>{notes}</p>" + _table(("split", "clips", "speakers", "hours"), rows)


def _counts(clips: Sequence[Clip]) -> str:
    """Gender x band by split: clips, speakers and hours."""
    number: Counter[tuple[str, str, str]] = Counter()
    hours: defaultdict[tuple[str, str, str], float] = defaultdict(float)
    speakers: defaultdict[tuple[str, str, str], set[str]] = defaultdict(set)
    for clip in clips:
        utterance = clip.utterance
        for gender in (utterance.gender, "all"):
            for band in (utterance.age_band, "all"):
                key = gender, band, clip.split
                number[key] += 1
                hours[key] += clip.seconds / 3600
                speakers[key].add(utterance.speaker)
    header = ["gender, band"]
    header += [f"{what}<br>{split}" for split in SPLITS for what in ("clips", "speakers", "hours")]
    rows = []
    for gender in ("female", "male", "all"):
        for band in (*band_order(), "all") if gender != "all" else ("all",):
            if not any(number[gender, band, split] for split in SPLITS):
                continue
            cells = [f"{gender}, {html.escape(band) or 'age unknown'}"]
            for split in SPLITS:
                key = gender, band, split
                if number[key]:
                    cells += [f"{number[key]:,}", f"{len(speakers[key]):,}", f"{hours[key]:.2f}"]
                else:
                    cells += ['<td class="none">0</td>'] * 3
            if band == "all":
                cells = [c if c.startswith("<td") else f'<td class="sum">{c}</td>' for c in cells]
            rows.append(cells)
    return _table(header, rows)


def _rejections(rejected: Sequence[Rejected]) -> str:
    if not rejected:
        return "<h2>Rejected</h2><p>Nothing.</p>"
    count = Counter(one.reason for one in rejected)
    examples: defaultdict[str, list[str]] = defaultdict(list)
    for one in rejected:
        if len(examples[one.reason]) < EXAMPLES:
            shown = f"{one.source} ({one.detail})" if one.detail else one.source
            examples[one.reason].append(html.escape(shown))
    rows = [
        (html.escape(reason), f"{n:,}", f'<td class="text">{"<br>".join(examples[reason])}</td>')
        for reason, n in count.most_common()
    ]
    return "<h2>Rejected</h2>" + _table(("reason", "number", "for example"), rows)
