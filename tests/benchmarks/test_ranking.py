"""benchmarks/ranking.py: figures that do without a class prior, against values by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score, recall_score

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # scripts, no package

import ranking


def log(rows):
    return np.log(np.array(rows))


def test_macro_is_what_scikit_learn_says_of_the_classes_that_occur():
    rng = np.random.default_rng(1)
    truth, said = rng.integers(0, 3, 200), rng.integers(0, 4, 200)
    ours = ranking.macro(truth, said, np.ones(200), 4)
    options = {"labels": [0, 1, 2], "average": "macro", "zero_division": 0}
    assert ours == pytest.approx(
        (f1_score(truth, said, **options), recall_score(truth, said, **options))
    )


def test_an_utterance_of_weight_two_counts_as_two():
    truth, said = np.array([0, 0, 1]), np.array([0, 1, 1])
    twice = ranking.macro(np.append(truth, 0), np.append(said, 1), np.ones(4), 2)
    assert ranking.macro(truth, said, np.array([1.0, 2.0, 1.0]), 2) == twice


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


def test_a_prior_that_hides_a_class_is_taken_out():
    # the second class is never said, though its posterior rises tenfold where it speaks
    logp = log([[0.98, 0.02]] * 9 + [[0.8, 0.2]])
    truth = np.array([0] * 9 + [1])
    found = ranking.judge(logp, truth, np.arange(10), np.array([0.9, 0.1]), draws=50)
    assert found["recall"]["value"] == 0.5
    assert found["recall_prior_out"]["value"] == 1.0
    assert found["auc_macro"]["value"] == 1.0


def test_intervals_are_of_speakers_and_repeat():
    rng = np.random.default_rng(2)
    logp = np.log(rng.dirichlet([1, 1, 1], 60))
    truth, member = rng.integers(0, 2, 60), np.arange(60) // 6
    prior = np.array([0.6, 0.3, 0.1])
    found = ranking.judge(logp, truth, member, prior, draws=100)
    assert found == ranking.judge(logp, truth, member, prior, draws=100)
    for key in ranking.HEADS:
        low, high = found[key]["interval"]
        assert low <= found[key]["value"] <= high
    assert found["auc"][2] == {"value": None, "interval": None}


def test_a_folder_that_is_no_run_is_an_error_of_the_command(tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        ranking.main(["--data", str(tmp_path), str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "none" in capsys.readouterr().err
