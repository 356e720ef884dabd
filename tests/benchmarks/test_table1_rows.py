"""The rows of the paper's table, the flags of their runs, and their records."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]  # import each other by name

import table1  # noqa: E402
from paper_table.page import Page  # noqa: E402
from paper_table.recipe import command, differences, flags_of, recipe_of  # noqa: E402
from paper_table.records import compact, read, read_all, write  # noqa: E402
from paper_table.rows import ABLATIONS, PAPER_ROWS, ROWS  # noqa: E402
from table1_records import ALL_FOLDERS, EVERY, RECIPE, by_key, record  # noqa: E402

from train.distill import Distill  # noqa: E402
from train.pretrain import Pretrain  # noqa: E402

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
"""
MSE_LESS_COS = (-0.22, -0.21, -0.22, 0.01, -0.05, -0.68)


class TestRows:
    @pytest.mark.parametrize("printed", POSTER.strip().splitlines())
    def test_every_row_of_the_poster_with_its_figures(self, printed):
        name, *figures = printed.split()
        published = next(row for row in PAPER_ROWS if row.id == name).published
        assert [*published.gender, *published.age_group] == [float(f) for f in figures]

    def test_no_other_row_claims_to_be_the_papers(self):
        printed = {text.split()[0] for text in POSTER.strip().splitlines()} | {"ecapa-mkd-mse"}
        assert {row.id for row in EVERY if row.published} == printed

    def test_the_brackets_are_what_the_squared_error_differs_by(self):
        cos, mse = ROWS["ecapa-mkd-cos"].published, ROWS["ecapa-mkd-mse"].published
        apart = np.array([*mse.gender, *mse.age_group]) - [*cos.gender, *cos.age_group]
        assert apart == pytest.approx(MSE_LESS_COS)

    def test_the_papers_order(self):
        printed = [text.split()[0] for text in POSTER.strip().splitlines()]
        assert [row.id for row in PAPER_ROWS if row.id in printed] == printed

    def test_ids_are_unique_and_others_exist(self):
        assert len(ROWS) == len(EVERY)
        for row in EVERY:
            for other in (*row.needs, *([row.reference] if row.reference else [])):
                assert other in ROWS

    def test_the_authors_order_of_the_asymmetric_loss(self):
        asked = [
            tuple(float(row.flags[row.flags.index(f"--{name}") + 1]) for name in names)
            for row in ABLATIONS
            for names in [("gamma-negative", "gamma-positive", "margin")]
            if "--margin" in row.flags
        ]
        usual = Distill(data=["x"], out=Path("y"))
        end = (usual.gamma_negative, usual.gamma_positive, usual.margin)
        assert [*asked, end] == [(0, 0, 0), (2, 2, 0), (2, 1, 0), (4, 1, 0.05)]


class TestFlags:
    @pytest.mark.parametrize("row", [row for row in EVERY if not row.source], ids=lambda r: r.id)
    def test_the_training_commands_take_them(self, row):
        words = command(row, 2, RECIPE, ALL_FOLDERS, Path("/w"), ["--threads", "1"])[3:]
        settings = (Pretrain if row.pretrains else Distill)(_cli_parse_args=words)
        settings.encoder()
        assert (settings.seed, settings.epochs) == (2, RECIPE.of(row).epochs)
        assert settings.data == ALL_FOLDERS[row.data]
        assert settings.out == Path(f"/w/{row.id}-s2")
        assert settings.streaming == row.id.endswith("-streaming")
        if not row.pretrains:
            settings.objective()
            assert settings.needs_teacher() == (row.teacher is not None)

    def test_an_ablation_differs_from_its_reference_in_what_it_says(self):
        ours, theirs = (flags_of(ROWS[n], 1, RECIPE) for n in ("ecapa-ch-smooth", "ecapa-ch"))
        assert differences(theirs, ours) == ["--dependency smooth, wanted absent"]

    def test_the_in_house_rows_begin_from_what_never_heard_that_corpus(self):
        words = command(ROWS["inhouse-ch"], 3, RECIPE, ALL_FOLDERS, Path("/w"), [])
        pairs = dict(itertools.pairwise(words))
        assert pairs["--init"] == "/w/rest-base-s1"
        assert pairs["--teacher"] == "/w/rest-clean-s1"
        assert pairs["--clean-data"] == "/data/inhouse-clean"
        assert ROWS["rest-base"].data == "rest"
        assert ROWS["rest-clean"].data == "rest-clean"
        assert int(pairs["--epochs"]) == RECIPE.finetune_epochs

    def test_records_name_no_path(self):
        for row in EVERY:
            assert not any("/" in word for word in flags_of(row, 1, RECIPE))

    def test_several_folders_and_addresses(self):
        folders = {"telephone": ["/a", "s3://b"]}
        words = command(ROWS["ecapa-base"], 1, RECIPE, folders, Path("/w"), [])
        assert words[3:7] == ["--data", "/a", "--data", "s3://b"]

    def test_both_backbones_or_one(self):
        words = ["plan", "--epochs", "3", "--resnet-epochs", "2", "--no-ecapa-compile"]
        made = recipe_of(table1.parser().parse_args(words))
        assert (made.ecapa.epochs, made.resnet.epochs) == (3, 2)
        assert (made.ecapa.compile, made.resnet.compile) == (False, True)
        assert made.ecapa.width == RECIPE.ecapa.width

    def test_the_command_of_a_missing_row_says_the_recipe(self):
        recipe = replace(RECIPE, ecapa=replace(RECIPE.ecapa, width=512, compile=False))
        page = Page.of({}, recipe, seeds=[1], ablation_seeds=[1])
        told = next(text for text in page.missing() if "--only ecapa-base " in text)
        options = table1.parser().parse_args(told.split()[2:])
        assert recipe_of(options) == recipe
        assert options.only == ["ecapa-base"]


class TestRecords:
    def test_writes_and_reads(self, tmp_path):
        made = record("ecapa-base")
        path = write(made, tmp_path)
        assert read(path) == made
        assert read_all(tmp_path) == by_key(made)
        assert len(path.read_text().splitlines()) < 40
        assert not list(tmp_path.glob("*.tmp"))

    def test_counts_survive_with_those_of_no_answer(self):
        table = np.zeros((3, 2, 3))
        table[0, 1, 0], table[2, 0, 2] = 4, 1
        assert compact(table) == [[[1, 0, 4]], [], [[0, -1, 1]]]
        made = record("ecapa-base", tables=table)
        assert (made.tables("gender_everyone") == table).all()

    def test_a_file_that_is_none(self, tmp_path):
        (tmp_path / "x-s1.json").write_text("{}")
        with pytest.raises(ValueError, match=r"x-s1\.json"):
            read_all(tmp_path)
