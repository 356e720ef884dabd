"""benchmarks/table1.py: rows and flags, records and what is run again, figures, one real run."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]  # import each other by name

import intervals  # noqa: E402
import table1  # noqa: E402
from paper_table import score  # noqa: E402
from paper_table.records import read_all  # noqa: E402

from model.classifier import Student, StudentConfig  # noqa: E402
from model.heads import HeadsConfig  # noqa: E402


class TestScore:
    @pytest.mark.parametrize("how", ["zeroed", "shuffled", "mean"])
    def test_k_is_spoilt_after_training(self, how):
        student = Student(StudentConfig(heads=HeadsConfig(hidden=4, knowledge=3)))
        dictionary = student.heads.prior.dictionary
        dictionary.copy_(dictionary.new_tensor(np.arange(dictionary.numel())).view_as(dictionary))
        before = dictionary.clone()
        score.spoil(student, how, seed=1)
        assert not dictionary.equal(before)
        if how == "shuffled":
            assert sorted(dictionary.tolist()) == before.tolist()
        if how == "zeroed":
            assert not dictionary.any()
        if how == "mean":
            assert dictionary.equal(before.mean(dim=0, keepdim=True).expand_as(before))

    def test_a_student_without_k(self):
        with pytest.raises(ValueError, match="no dictionary"):
            score.spoil(Student(StudentConfig()), "zeroed", seed=1)


class TestCommand:
    def test_unusable_arguments(self, tmp_path, capsys):
        shared = ["--clean", str(tmp_path), "--telephone", str(tmp_path)]
        records = ["--records", str(tmp_path)]
        for words, said in (
            (["plan", "--clean", "/no/where"], "--clean /no/where"),
            (["run", "--rows", "inhouse", *shared], "--rest"),
            (["plan", "--only", "nonsense", *shared], "nonsense"),
            (["table", *records, "--json", "/no/where/x.json"], "--json"),
        ):
            assert table1.main(words) == 2
            assert said in capsys.readouterr().err

    def test_the_inhouse_block_is_skipped_aloud(self, tmp_path, capsys):
        words = ["--clean", str(tmp_path), "--telephone", str(tmp_path), "--commands"]
        assert table1.main(["plan", *words, "--records", str(tmp_path / "none")]) == 0
        told = capsys.readouterr()
        assert "SKIPPED inhouse-base" in told.err
        assert "train.distill --data" in told.out
        assert "rest-base" not in told.out

    def test_a_row_end_to_end(self, tested, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        data = str(tested)
        shared = [
            *("--records", str(tmp_path / "records"), "--width", "8", "--epochs", "1"),
            *("--epoch-clips", "16", "--batch-size", "4", "--no-compile", "--precision", "32-true"),
        ]
        words = [
            *("run", "--only", "ecapa-base", "--seeds", "1", "--work", str(tmp_path / "work")),
            *("--clean", data, "--telephone", data, *shared),
        ]
        assert table1.main(words) == 0
        (made,) = read_all(tmp_path / "records").values()
        assert made.epochs == 1
        assert made.seconds > 0
        assert made.speakers["count"] == 5
        # of ten utterances two have no age and two are a child's
        assert [made.test[task]["n"] for task in ("gender_everyone", "gender", "age_group")] == [
            *(10, 6, 8)
        ]
        assert made.tables("gender").sum() == 6
        assert made.test["gender"]["f1"] == pytest.approx(
            float(intervals.measures(made.tables("gender").sum(axis=0)).f1), abs=1e-6
        )
        assert table1.main(words) == 0  # nothing to do
        assert "to make: 0" in capsys.readouterr().err
        out = tmp_path / "table.md"
        assert table1.main(["table", *shared, "--seeds", "1", "--markdown", str(out)]) == 0
        assert "| ECAPA | telephone (paper: LTV) | base | missing" not in out.read_text()
