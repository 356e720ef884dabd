"""benchmarks/ranking.py: figures that do without a class prior, against values by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # scripts, no package

import ranking


def log(rows):
    return np.log(np.array(rows))


def test_areas_are_the_shares_of_pairs_in_order():
    # members of class 0 have 0.9 and 0.4, the others 0.6 and 0.1: three pairs of four in order
    logp = log([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4], [0.1, 0.9]])
    truth = np.array([0, 0, 1, 1])
    assert ranking.areas(logp, truth, np.ones(4)) == pytest.approx([0.75, 0.75])


def test_certainty_is_ranked_and_a_class_without_members_is_not():
    with np.errstate(divide="ignore"):
        logp = log([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]])
    found = ranking.areas(logp, np.array([0, 1]), np.ones(2))
    assert found[:2] == pytest.approx([1.0, 1.0])
    assert np.isnan(found[2])


def judged(logp, truth, speakers, shift, draws=50):
    found = ranking.ranks(logp, truth, speakers, draws)
    return ranking.judge(logp, truth, speakers, np.array(shift), found, draws)[0]


def test_a_line_that_hides_a_class_is_moved():
    # the second class is never said, though its posterior rises tenfold where it speaks
    logp = log([[0.98, 0.02]] * 9 + [[0.8, 0.2]])
    truth = np.array([0] * 9 + [1])
    found = judged(logp, truth, [f"{n}" for n in range(10)], [0.0, 2.0])
    assert found["recall"]["value"] == 0.5
    assert found["recall_shifted"]["value"] == 1.0
    assert found["auc_macro"]["value"] == 1.0


def test_a_speaker_drawn_twice_counts_twice():
    logp = log([[0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    truth = np.array([0, 0, 1])
    twice = ranking.areas(logp[[0, 1, 1, 2]], truth[[0, 1, 1, 2]], np.ones(4))
    assert ranking.areas(logp, truth, np.array([1.0, 2.0, 1.0])) == pytest.approx(twice)


def test_intervals_are_of_speakers_and_repeat():
    rng = np.random.default_rng(2)
    logp = np.log(rng.dirichlet([1, 1, 1], 60))
    truth, speakers = rng.integers(0, 2, 60), [f"{n // 6}" for n in range(60)]
    found = judged(logp, truth, speakers, [0.6, 0.3, 0.1], draws=100)
    assert found == judged(logp, truth, speakers, [0.6, 0.3, 0.1], draws=100)
    for key in ranking.HEADS:
        low, high = found[key]["interval"]
        assert low <= found[key]["value"] <= high
    assert found["auc"][2] == {"value": None, "interval": None}


def test_a_folder_that_is_no_run_is_an_error_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        ranking.main(["--data", str(tmp_path), str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "none" in capsys.readouterr().err
