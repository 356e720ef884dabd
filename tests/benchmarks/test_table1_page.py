"""Figures over seeds, and the page."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]  # import each other by name

import intervals  # noqa: E402
from paper_table.figures import difference, figures, line  # noqa: E402
from paper_table.page import Page  # noqa: E402
from paper_table.picture import picture  # noqa: E402
from paper_table.rows import ABLATIONS, PAPER_ROWS, ROWS  # noqa: E402
from paper_table.text import shown  # noqa: E402
from table1_records import RECIPE, by_key, counts, record  # noqa: E402


class TestFigures:
    def test_the_mean_over_seeds_of_what_the_confusions_say(self):
        found = figures([record("ecapa-ch", seed) for seed in (1, 2)], "gender")["f1"]
        each = [float(intervals.measures(counts(30, seed).sum(axis=0)).f1) for seed in (1, 2)]
        assert found.value == pytest.approx(np.mean(each))
        assert found.by_seed == pytest.approx(tuple(each))
        assert found.spread == pytest.approx(np.std(each, ddof=1))
        assert found.interval[0] < found.value < found.interval[1]

    def test_speakers_are_drawn_once_for_all_seeds(self):
        one, same = record("ecapa-ch", 1), record("ecapa-ch", 2, tables=counts(30, 1))
        alone = figures([one], "gender")["f1"].interval
        # drawn anew for every seed, the mean of two would vary less
        assert figures([one, same], "gender")["f1"].interval == pytest.approx(alone)
        assert alone == pytest.approx(intervals.score_intervals(counts(30, 1)).f1)

    def test_differences_are_between_the_same_speakers(self):
        table = counts(30, 1)
        better = table.copy()
        wrong = np.argwhere(better[:, 0, 1] > 0)[:1, 0]
        better[wrong, 0] = [2, 0, 0]
        ours, theirs = record("ecapa-ch", tables=better), record("ecapa-base", tables=table)
        same = difference([ours], [ours], "gender", "f1")
        assert (same.value, same.interval) == (0.0, None)
        more = difference([ours], [theirs], "gender", "recall")
        assert more.value > 0
        assert more.interval[0] >= 0  # one speaker is better and none worse, in every draw

    def test_differences_are_between_the_same_seeds(self):
        ours = [record("ecapa-ch", 2, tables=counts(30, 2))]
        theirs = [record("ecapa-base", seed) for seed in (1, 2)]
        assert difference(ours, theirs, "gender", "f1").value == 0

    def test_other_speakers_cannot_be_paired(self):
        theirs = record("ecapa-base", speakers={"count": 30, "digest": "d2"})
        assert difference([record("ecapa-ch")], [theirs], "gender", "f1") is None
        assert difference([], [theirs], "gender", "f1") is None

    def test_records_of_other_flags_are_not_averaged_in(self):
        wider = replace(RECIPE, ecapa=replace(RECIPE.ecapa, width=128))
        found = by_key(record("ecapa-ch", 1), record("ecapa-ch", 2, recipe=wider))
        kept = line(ROWS["ecapa-ch"], [1, 2], found, RECIPE)
        assert ([r.seed for r in kept.records], kept.missing) == ([1], [2])
        other = line(ROWS["ecapa-ch"], [1, 2], by_key(record("ecapa-ch", recipe=wider)), RECIPE)
        assert other.notes == ["other flags: --width 128, wanted 96"]


@pytest.fixture(scope="module")
def page():
    names = ("ecapa-clean", "ecapa-base", "ecapa-ch", "ecapa-ch-no-k", "ecapa-ch-k-zeroed-after")
    found = by_key(*(record(name, seed) for name in names for seed in (1, 2)))
    return Page.of(found, RECIPE, seeds=[1, 2, 3], ablation_seeds=[1])


class TestPage:
    def test_every_row_is_there_though_missing(self, page):
        text = page.markdown()
        for row in PAPER_ROWS:
            assert row.id in text
            if row.published:
                assert f"paper {row.published.gender[2]:.2f}" in text
        for row in ABLATIONS:
            assert f"| {row.method}" in text
        assert len(page.main().rows) == len(PAPER_ROWS)
        assert "| missing<br>paper 98.96 |" in text
        assert "run --only resnet-mkd+ch --seeds 1 2 3" in text
        assert "run --only ecapa-ch --seeds 3\n" in text
        assert "run --only ecapa-ch-no-k " not in text

    def test_the_papers_steps_beside_ours(self, page):
        rows = {row[0]: row for row in page.gains().rows}
        assert rows["ecapa-ch"][4] == "+11.81"
        assert rows["resnet-mkd+ch"][4] == "+14.83"
        assert rows["ecapa-mkd+ch"][4] == "–"  # noqa: RUF001

    def test_rows_of_other_data_are_marked(self):
        odd = record("resnet-base", speakers={"count": 30, "digest": "d1", "data": "x"})
        found = by_key(record("ecapa-base"), record("ecapa-ch"), odd)
        page = Page.of(found, RECIPE, seeds=[1], ablation_seeds=[1])
        assert page.notes() == ["resnet-base †: from other telephone data than most rows"]

    def test_json_has_everything(self, page):
        plain = json.loads(json.dumps(page.plain(), allow_nan=False))
        rows = {row["id"]: row for row in plain["rows"]}
        assert set(rows) == set(ROWS)
        assert rows["ecapa-ch"]["seeds"] == [1, 2]
        assert rows["ecapa-ch"]["missing_seeds"] == [3]
        assert rows["ecapa-ch"]["figures"]["gender"]["f1"]["interval"]
        assert rows["ecapa-ch-no-k"]["over_reference"]["age_group"]["f1"]["value"] == 0
        assert rows["ecapa-ch"]["paper"]["age_group"] == [83.45, 83.13, 81.82]
        assert rows["resnet-base"]["figures"] == {}

    def test_cells(self, page):
        value = page.lines["ecapa-ch"].figures["gender"]["f1"]
        low, high = value.interval
        assert shown(value) == f"{100 * value.value:.1f} [{100 * low:.1f}, {100 * high:.1f}]"

    def test_terminal_and_picture(self, page, tmp_path):
        console = Console(file=io.StringIO(), width=100)
        page.show(console)
        assert "missing: python benchmarks/table1.py run" in console.file.getvalue()
        picture(page.lines, tmp_path / "x.png")
        assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")

    def test_nothing_at_all(self):
        empty = Page.of({}, RECIPE, seeds=[1], ablation_seeds=[1])
        assert empty.markdown().count("run --only") == len(ROWS)
