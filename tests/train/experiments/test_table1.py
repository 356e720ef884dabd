"""Rows and flags of Table 1, what is missing, and one row from training to page."""

from __future__ import annotations

import itertools
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from table1_records import flags, options, record

from train.distill import Distill
from train.experiments import table1, table1_summary
from train.experiments.table1_record import read_all
from train.experiments.table1_rows import ABLATIONS, PAPER_ROWS, ROWS, command, flags_of
from train.pretrain import Pretrain

FOLDERS = {role: [f"/data/{role}"] for role in table1.ROLES}
# As printed on the poster: label, then gender P R F1, age group P R F1.
POSTER = """
ecapa-clean     99.85 99.83 99.84 96.67 96.90 96.78
resnet-clean    99.86 99.86 99.86 94.13 94.12 94.11
ecapa-base      97.13 97.14 97.13 79.80 68.07 70.01
ecapa-mkd-cos   97.03 96.76 96.89 81.35 66.14 67.43
ecapa-ch        97.35 97.35 97.35 83.45 83.13 81.82
resnet-base     95.34 95.26 95.26 73.36 73.42 73.00
resnet-mkd-cos  96.11 96.07 96.07 74.78 70.46 73.05
resnet-ch       97.55 97.56 97.55 82.38 81.15 77.66
resnet-mkd+ch   98.95 98.96 98.96 88.40 87.69 87.83
inhouse-base    96.83 96.82 96.81 62.30 62.88 60.01
inhouse-ch      98.32 98.29 98.29 75.13 70.68 70.15
inhouse-mkd+ch  98.59 98.59 98.59 76.04 70.65 70.48
""".strip().splitlines()
MSE_LESS_COS = (-0.22, -0.21, -0.22, 0.01, -0.05, -0.68)


class TestRows:
    @pytest.mark.parametrize("printed", POSTER)
    def test_every_row_of_the_poster_with_its_figures(self, printed):
        name, *figures = printed.split()
        assert ROWS[name].paper == tuple(float(f) for f in figures)

    def test_other_rows_have_no_figures_of_the_paper(self):
        printed = [text.split()[0] for text in POSTER]
        assert {row.id for row in ROWS.values() if row.paper} == {*printed, "ecapa-mkd-mse"}
        assert [row.id for row in PAPER_ROWS if row.id in printed] == printed

    def test_the_brackets_are_the_differences_of_the_squared_error(self):
        apart = np.subtract(ROWS["ecapa-mkd-mse"].paper, ROWS["ecapa-mkd-cos"].paper)
        assert apart == pytest.approx(MSE_LESS_COS)

    def test_all_rows_and_the_rows_that_they_need(self):
        assert (len(PAPER_ROWS), len(ABLATIONS), len(ROWS)) == (15, 25, 42)
        for row in ROWS.values():
            assert {*row.needs, *filter(None, [row.base])} <= set(ROWS)

    def test_the_authors_order_of_the_asymmetric_loss(self):
        names = ("--gamma-negative", "--gamma-positive", "--margin")
        given = [
            tuple(float(row.flags[row.flags.index(name) + 1]) for name in names)
            for row in ABLATIONS
            if "--margin" in row.flags
        ]
        usual = Distill(data=["x"], out=Path("y"))
        end = (usual.gamma_negative, usual.gamma_positive, usual.margin)
        assert [*given, end] == [(0, 0, 0), (2, 2, 0), (2, 1, 0), (4, 1, 0.05)]


class TestFlags:
    @pytest.mark.parametrize("row", [r for r in ROWS.values() if not r.source], ids=lambda r: r.id)
    def test_the_training_commands_accept_them(self, row):
        made = flags_of(row, 2, options())
        assert not any("/" in word for word in made)
        words = command(row, f"{row.id}-s2", made, FOLDERS, Path("/w"))[3:]
        settings = (Pretrain if row.pretrains else Distill)(_cli_parse_args=words)
        settings.encoder()
        epochs = 5 if row.init else {"ecapa": 10, "resnet": 6}[row.network]
        assert (settings.seed, settings.epochs) == (2, epochs)
        assert settings.data == FOLDERS[row.data]
        assert settings.out == Path(f"/w/{row.id}-s2")
        assert settings.streaming == row.id.endswith("-streaming")
        if not row.pretrains:
            settings.objective()
            assert settings.needs_teacher() == (row.teacher is not None)

    def test_the_in_house_rows_start_without_that_corpus(self):
        words = command(ROWS["inhouse-ch"], "x", flags("inhouse-ch", 3), FOLDERS, Path("/w"))
        pairs = dict(itertools.pairwise(words))
        assert pairs["--init"] == "/w/rest-base-s1"
        assert pairs["--teacher"] == "/w/rest-clean-s1"
        assert pairs["--clean-data"] == "/data/inhouse-clean"
        assert (ROWS["rest-base"].data, ROWS["rest-clean"].data) == ("rest", "rest-clean")

    def test_several_folders_and_addresses(self):
        folders = {"telephone": ["/a", "s3://b"]}
        words = command(ROWS["ecapa-base"], "x", flags("ecapa-base"), folders, Path("/w"))
        assert words[3:7] == ["--data", "/a", "--data", "s3://b"]

    def test_recipe_flags_of_each_network(self, capsys):
        words = ("--ecapa", "epochs=3", "compile=no", "--resnet", "epoch-clips=20")
        ecapa, resnet = flags("ecapa-base", 1, *words), flags("resnet-base", 1, *words)
        assert ecapa[ecapa.index("--epochs") + 1] == "3"
        assert resnet[resnet.index("--epochs") + 1] == "6"
        assert resnet[resnet.index("--epoch-clips") + 1] == "20"
        assert "--no-compile" in ecapa
        assert "--compile" in resnet
        with pytest.raises(SystemExit, match="2"):
            options("--ecapa", "depth=3")
        assert "'depth=3' is no KEY=VALUE" in capsys.readouterr().err

    def test_the_recorded_flags_are_made_from_the_recorded_recipe(self):
        recorded = (
            "--data telephone --clean-data clean --teacher ecapa-clean-s1 --preset ch "
            "--no-streaming --backbone ecapa-res2 --width 64 --frame-stride 2 --epochs 8 "
            "--batch-size 32 --learning-rate 0.002 --shortest-crop 2.4 --longest-crop 2.4 "
            "--precision bf16-mixed --compile --seed 1"
        )
        words = "width=64 epochs=8 batch-size=32 shortest-crop=2.4 longest-crop=2.4"
        assert " ".join(flags("ecapa-ch", 1, "--ecapa", *words.split())) == recorded


class TestMissing:
    @pytest.fixture
    def missing(self, tmp_path):
        def names(*words):
            given = options("--work", tmp_path, *words)
            return [run.name for run in table1.missing_runs(table1.chosen(given), given)]

        return names

    def test_a_teacher_comes_first_and_once(self, missing):
        assert missing("--only", "ecapa-ch", "ecapa-mkd-cos", "--seeds", 1, 2) == [
            *("ecapa-clean-s1", "ecapa-mkd-cos-s1", "ecapa-ch-s1"),
            *("ecapa-mkd-cos-s2", "ecapa-ch-s2"),
        ]

    def test_another_k_after_training_needs_the_student(self, missing):
        assert missing("--only", "ecapa-ch-k-zeroed-after") == [
            *("ecapa-clean-s1", "ecapa-ch-s1", "ecapa-ch-k-zeroed-after-s1"),
        ]

    def test_what_has_a_record_of_its_flags_is_not_repeated(self, missing, tmp_path):
        record("ecapa-base").write(tmp_path)
        assert missing("--only", "ecapa-base", "--seeds", 1, 2) == ["ecapa-base-s2"]
        assert missing("--only", "ecapa-base", "--seeds", 1, "--ecapa", "width=9") == [
            "ecapa-base-s1"
        ]

    def test_a_lost_checkpoint_is_made_again_only_for_others(self, missing, tmp_path):
        record("ecapa-clean").write(tmp_path)
        assert missing("--only", "ecapa-clean") == []
        assert missing("--only", "ecapa-ch", "--seeds", 1) == ["ecapa-clean-s1", "ecapa-ch-s1"]
        (tmp_path / "ecapa-clean-s1").mkdir()
        (tmp_path / "ecapa-clean-s1/last.pt").touch()
        assert missing("--only", "ecapa-ch", "--seeds", 1) == ["ecapa-ch-s1"]

    def test_blocks(self, missing):
        rows = {name.rpartition("-s")[0] for name in missing("--rows", "inhouse")}
        assert rows == {"inhouse-base", "inhouse-ch", "inhouse-mkd+ch", "rest-clean", "rest-base"}
        assert len(missing("--ablations", "--seeds", 1)) == len(ROWS)


class TestCommand:
    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--clean", "/no/where"], "--clean /no/where: no such folder"),
            (["--rows", "inhouse"], "--rest"),
            (["--only", "nonsense"], "--only nonsense: no such row"),
        ],
    )
    def test_unusable_arguments(self, tmp_path, capsys, words, message):
        shared = ["--clean", tmp_path, "--telephone", tmp_path, "--work", tmp_path, "--dry-run"]
        assert table1.main([str(word) for word in (*shared, *words)]) == 2
        assert message in capsys.readouterr().err

    def test_rows_without_folders_are_skipped_with_a_message(self, tmp_path, capsys):
        words = ["--clean", tmp_path, "--telephone", tmp_path, "--work", tmp_path, "--dry-run"]
        assert table1.main([str(word) for word in words]) == 0
        printed = capsys.readouterr()
        assert "SKIPPED inhouse-base-s1: no --inhouse" in printed.err
        assert "train.distill --data" in printed.out
        assert "rest-base" not in printed.out

    def test_a_failed_teacher_fails_its_students_and_not_the_others(self, tmp_path, capsys):
        (tmp_path / "work").mkdir()
        words = ["--only", "ecapa-ch", "--seeds", 1, "--work", tmp_path / "work"]
        words += ["--clean", tmp_path, "--telephone", tmp_path]  # no shards in it
        assert table1.main([str(word) for word in words]) == 1
        printed = capsys.readouterr().err
        assert "FAILED ecapa-clean-s1: exit status" in printed
        assert "FAILED ecapa-ch-s1: needs ecapa-clean-s1, which failed" in printed

    def test_a_run_of_another_process_is_left_to_it_with_those_that_need_it(self, tmp_path, capsys):
        words = ["--only", "ecapa-ch", "--seeds", 1, "--work", tmp_path / "work"]
        words += ["--clean", tmp_path, "--telephone", tmp_path]
        (tmp_path / "work").mkdir()
        with table1.lock(tmp_path / "work/ecapa-clean-s1.lock") as held:
            assert held is not None
            assert table1.main([str(word) for word in words]) == 0
        printed = capsys.readouterr().err
        assert "left to another process that trains now: ecapa-ch-s1, ecapa-clean-s1" in printed

    def test_a_row_from_training_to_page(self, prepared, tmp_path, capsys, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        data = shutil.copytree(prepared, tmp_path / "data")
        shutil.copy(data / "cuts.dev.jsonl.gz", data / "cuts.test.jsonl.gz")
        words = ["--only", "ecapa-base", "--seeds", 1, "--work", tmp_path / "work"]
        words += ["--clean", data, "--telephone", data, "--ecapa", "width=8"]
        words += ["epochs=1", "epoch-clips=16", "batch-size=4", "compile=no", "precision=32-true"]
        assert table1.main([str(word) for word in words]) == 0
        (made,) = read_all(tmp_path / "work").values()
        assert (made.meta["epochs"], made.meta["row"]) == (1, "ecapa-base")
        assert made.meta["seconds"] > 0
        assert len(set(made.arrays["speakers"])) == 5
        # of ten utterances two have no age and two are a child's
        assert [(made.arrays[f"truth_{task}"] >= 0).sum() for task in ("gender", "age_group")] == [
            *(10, 8)
        ]
        assert table1.main([str(word) for word in words]) == 0
        assert "0 runs to make" in capsys.readouterr().err
        out = tmp_path / "summary.json"
        records = ["--records", str(tmp_path / "work")]
        assert table1_summary.main([*records, "--json", str(out)]) == 0
        assert "| ecapa-base | base |" in capsys.readouterr().out
        picture = tmp_path / "p.png"
        assert table1_summary.main(["--records", str(out), "--picture", str(picture)]) == 0
        assert picture.read_bytes().startswith(b"\x89PNG")
