"""Records of Table 1, and the figures and the page of their summary."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

sys.path.insert(0, str(Path(__file__).parent))

from table1_records import record

from model.classifier import SpeakerClassifier, StudentConfig
from model.heads import HeadsConfig
from train.evaluation import intervals
from train.experiments import table1_summary
from train.experiments.table1_record import read, read_all, spoil
from train.experiments.table1_rows import PAPER_ROWS, ROWS

RESULTS = Path(__file__).parents[3] / "benchmarks/results"


def summary_of(*records):
    summary = table1_summary.summarise({r.key: r for r in records})
    return summary, summary["rows"]


class TestRecord:
    def test_writes_and_reads(self, tmp_path):
        made = record("ecapa-base")
        made.write(tmp_path)
        (found,) = read_all(tmp_path).values()
        assert found.meta == made.meta
        assert all(np.array_equal(found.arrays[k], v) for k, v in made.arrays.items())
        assert not list(tmp_path.glob("*.partial"))

    def test_a_file_that_is_none(self, tmp_path):
        (tmp_path / "x-s1.npz").write_text("{}")
        with pytest.raises(ValueError, match=r"x-s1\.npz: not a record"):
            read(tmp_path / "x-s1.npz")

    @pytest.mark.parametrize("how", ["zeroed", "shuffled", "mean"])
    def test_k_is_replaced_after_training(self, how):
        student = SpeakerClassifier(StudentConfig(heads=HeadsConfig(hidden=4, knowledge=3)))
        dictionary = student.heads.prior.dictionary
        dictionary.copy_(dictionary.new_tensor(np.arange(dictionary.numel())).view_as(dictionary))
        before = dictionary.clone()
        spoil(student, how, seed=1)
        expected = {
            "zeroed": before * 0,
            "mean": before.mean(dim=0, keepdim=True).expand_as(before),
        }
        if how in expected:
            assert dictionary.equal(expected[how])
        else:
            assert not dictionary.equal(before)
            assert sorted(dictionary.tolist()) == before.tolist()

    def test_a_student_without_k(self):
        with pytest.raises(ValueError, match="no dictionary"):
            spoil(SpeakerClassifier(StudentConfig()), "zeroed", seed=1)


class TestAuc:
    def test_is_that_of_scikit_learn_with_ties_and_weights(self):
        random = np.random.default_rng(3)
        posterior = random.dirichlet([1, 1, 1], 80).round(1) + 0.01
        logp = np.log(posterior / posterior.sum(axis=1, keepdims=True))
        truth = random.integers(0, 3, 80)
        weights = random.integers(0, 3, (4, 80)).astype(float)
        found = table1_summary.auc(logp, truth, weights)
        for draw, number in itertools.product(range(4), range(3)):
            odds = logp[:, number] - np.log(-np.expm1(logp[:, number]))
            expected = roc_auc_score(truth == number, odds, sample_weight=weights[draw])
            assert found[draw, number] == pytest.approx(expected)

    def test_certainty_is_ranked_and_an_absent_class_is_not(self):
        with np.errstate(divide="ignore"):
            logp = np.log(np.array([[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]))
        found = table1_summary.auc(logp, np.array([0, 1]), np.ones((1, 2)))[0]
        assert found[:2] == pytest.approx([1.0, 1.0])
        assert np.isnan(found[2])


class TestSummary:
    def test_figures_and_intervals_are_those_of_the_confusion_matrices(self):
        made = record("ecapa-ch")
        _, rows = summary_of(made)
        truth, predicted = made.arrays["truth_gender"], made.arrays["logp_gender"].argmax(axis=1)
        tables = intervals.confusions(truth, predicted, made.arrays["speakers"].tolist(), 2)
        value = float(intervals.measures(tables.sum(axis=0)).f1)
        expected = [value, *intervals.score_intervals(tables).f1]
        assert rows["ecapa-ch"]["figures"]["gender"]["f1"] == pytest.approx(expected, abs=1e-4)

    def test_speakers_are_drawn_once_for_all_seeds(self):
        same = record("ecapa-ch", 2, answers=1)
        _, alone = summary_of(record("ecapa-ch", 1))
        _, both = summary_of(record("ecapa-ch", 1), same)
        assert both["ecapa-ch"]["seeds"] == [1, 2]
        # if they were drawn again for every seed, the mean of two would vary less
        assert both["ecapa-ch"]["figures"] == alone["ecapa-ch"]["figures"]

    def test_differences_are_between_the_same_speakers_and_seeds(self):
        base = [record("ecapa-base", seed) for seed in (1, 2)]
        _, rows = summary_of(*base, record("ecapa-ch", 2, answers=2))
        assert rows["ecapa-ch"]["over_base"]["gender"] == [0.0, None, None]
        _, rows = summary_of(record("ecapa-base"), record("ecapa-ch", right=1.0))
        assert rows["ecapa-ch"]["over_base"]["gender"][1] > 0
        _, rows = summary_of(record("ecapa-base"), record("ecapa-ch", speakers=20))
        assert rows["ecapa-ch"]["over_base"] == {}

    def test_other_flags_are_left_out_and_noted(self):
        wider = record("ecapa-ch", 2, words=("--ecapa", "width=128"))
        summary, rows = summary_of(record("ecapa-ch", 1), wider)
        assert rows["ecapa-ch"]["seeds"] == [1]
        assert "ecapa-ch: seeds left out, of other flags or other test data: 2" in (
            table1_summary.markdown(summary)
        )

    def test_a_shift_finds_a_class_that_the_prior_hides(self):
        made = record("ecapa-ch", right=1.0)
        logp = made.arrays["logp_age_group"]
        logp[:, 0] -= 6.0  # never the likeliest, though it is higher where the class speaks
        made.meta["shift"]["child"] = 6.0
        _, rows = summary_of(made)
        found = rows["ecapa-ch"]["figures"]["age_group"]
        assert found["f1"][0] < 0.5
        assert found["f1_shifted"][0] == 1.0
        assert found["auc"][0] > 0.99

    def test_no_record_is_an_error(self, tmp_path, capsys):
        assert table1_summary.main(["--records", str(tmp_path)]) == 2
        assert "no record" in capsys.readouterr().err


class TestCommitted:
    def test_the_committed_summary_has_every_row_and_a_page(self):
        summary = json.loads((RESULTS / "table1.json").read_text())
        assert list(summary["rows"]) == list(ROWS)
        page = table1_summary.markdown(summary)
        for row in PAPER_ROWS:
            assert f"| {row.id} |" in page
            assert row.paper is None or f"paper {row.paper[2]:.2f}" in page
        assert "| ecapa-ch | ecapa-base | +0.8 [-0.1, +1.8] | +0.22 | -1.5 [-3.9, +0.4] |" in page
