"""benchmarks/table1.py: rows and flags, records and what is run again, figures, one real run."""

from __future__ import annotations

import io
import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by plain name

import intervals  # noqa: E402
import table1  # noqa: E402
from paper_table import score  # noqa: E402
from paper_table.data import identity  # noqa: E402
from paper_table.figures import difference, figures, line  # noqa: E402
from paper_table.page import Page  # noqa: E402
from paper_table.picture import picture  # noqa: E402
from paper_table.plan import chosen, expected_seconds, survey, todo, without_folders  # noqa: E402
from paper_table.recipe import Recipe, command, differences, flags_of, recipe_of  # noqa: E402
from paper_table.records import Record, compact, read, read_all, write  # noqa: E402
from paper_table.rows import ABLATIONS, PAPER_ROWS, PREPARATION, ROWS  # noqa: E402
from paper_table.run import Busy, Place, claim, locked, run_all, tail  # noqa: E402
from paper_table.text import shown  # noqa: E402

from model.heads import HeadsConfig  # noqa: E402
from model.student import Student, StudentConfig  # noqa: E402
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
ALL_FOLDERS = {
    role: [f"/data/{role}"]
    for role in ("clean", "telephone", "inhouse", "inhouse-clean", "rest", "rest-clean")
}
RECIPE = Recipe()
EVERY = [*PAPER_ROWS, *PREPARATION, *ABLATIONS]
QUIET = Console(file=io.StringIO())
CLASSES = {"gender": ["f", "m"], "age_group": ["a", "b"], "age_band": ["a", "b"]}


def counts(speakers, seed, *, right=0.8):
    """Confusion counts of ``speakers`` people with two utterances each, two classes."""
    random = np.random.default_rng(seed)
    truth = np.repeat(np.arange(speakers) % 2, 2)
    said = np.where(random.random(2 * speakers) < right, truth, 1 - truth)
    names = [f"{n // 2:04d}" for n in range(2 * speakers)]
    return intervals.confusions(truth, said, names, 2)


def record(row, seed=1, *, recipe=RECIPE, tables=None, **other):
    tables = counts(30, seed) if tables is None else tables
    tasks = ("gender", "gender_everyone", "age_group", "age_band")
    facts = {
        "row": row,
        "seed": seed,
        "flags": flags_of(ROWS[row], seed, recipe),
        "code": "abc",
        "torch": "2",
        "device": "d",
        "seconds": 100.0,
        "epochs": 10,
        "best_epoch": 7,
        "dev_score": 1.5,
        "parameters": 1000,
        "encoder": {"family": "ecapa"},
        "classes": CLASSES,
        "dev": {},
        "test": score.figures(dict.fromkeys(tasks, tables)),
        "speakers": {"count": len(tables), "digest": "d1"},
        "confusions": {task: compact(tables) for task in tasks},
    }
    return Record(**(facts | other))


def by_key(*records):
    return {(r.row, r.seed): r for r in records}


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


class Trainer:
    """Writes what a training leaves; fails at the rows that it is told."""

    def __init__(self, failing=(), busy=()):
        self.made, self.failing, self.busy = [], failing, list(busy)

    def __call__(self, words, log, lock):  # noqa: ARG002
        folder = Path(words[-1])
        self.made.append(folder.name)
        if folder.name in self.busy:
            self.busy.remove(folder.name)
            raise Busy
        log.write_text("one\rtwo\n\nlast words\n")
        if folder.name in self.failing:
            return 3
        (folder / "last.pt").touch()
        return 0


def scored(wanted, flags, folder, data):  # noqa: ARG001
    assert (folder / "last.pt").exists()
    return record(wanted.row.id, wanted.seed, flags=flags)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "work", tmp_path / "records", ALL_FOLDERS)


def listed(place, only, recipe=RECIPE, seeds=(1,)):
    rows, found = chosen(None, only, ablations=False), read_all(place.records)
    return survey(rows, recipe, found, seeds=seeds, ablation_seeds=[1])


def due(place, only, recipe=RECIPE, seeds=(1,), *, force=False):
    found = read_all(place.records)
    return todo(listed(place, only, recipe, seeds), recipe, found, place.work, force=force)


def go(place, wanted, trainer, recipe=RECIPE):
    return run_all(wanted, recipe, place, QUIET, train=trainer, score=scored, rest=0)


def names(wanted):
    return [one.name for one in wanted]


@pytest.fixture
def tested(prepared, tmp_path) -> Path:
    """The made corpus, whose dev split also stands for test: ten utterances of five people."""
    folder = tmp_path / "prepared"
    shutil.copytree(prepared, folder)
    shutil.copy(folder / "cuts.dev.jsonl.gz", folder / "cuts.test.jsonl.gz")
    return folder


class TestPlan:
    def test_a_teacher_comes_first_and_once(self, place):
        wanted = due(place, ["ecapa-ch", "ecapa-mkd-cos"], seeds=(1, 2))
        assert names(wanted) == [
            *("ecapa-clean-s1", "ecapa-mkd-cos-s1", "ecapa-ch-s1"),
            *("ecapa-mkd-cos-s2", "ecapa-ch-s2"),
        ]

    def test_spoiling_afterwards_needs_the_student(self, place):
        wanted = due(place, ["ecapa-ch-k-zeroed-after"])
        assert names(wanted) == ["ecapa-clean-s1", "ecapa-ch-s1", "ecapa-ch-k-zeroed-after-s1"]

    def test_a_lost_checkpoint_is_made_again_only_for_others(self, place):
        write(record("ecapa-clean"), place.records)
        assert not due(place, ["ecapa-clean"])
        wanted = due(place, ["ecapa-ch"])
        assert names(wanted) == ["ecapa-clean-s1", "ecapa-ch-s1"]
        assert wanted[0].again

    def test_blocks(self):
        rows = {row.id for row in chosen(["inhouse"], None, ablations=False)}
        assert rows == {"inhouse-base", "inhouse-ch", "inhouse-mkd+ch", "rest-clean", "rest-base"}
        assert len(chosen(None, None, ablations=True)) == len(EVERY)
        with pytest.raises(ValueError, match="nonsense"):
            chosen(None, ["nonsense"], ablations=False)

    def test_rows_without_their_folders(self):
        folders = {role: ALL_FOLDERS[role] for role in ("clean", "telephone", "inhouse")}
        lacking = without_folders(EVERY, folders)
        assert lacking["inhouse-base"] == ["rest"]
        assert lacking["inhouse-ch"] == ["inhouse-clean", "rest", "rest-clean"]
        assert not any(ROWS[name].block == "telephone" for name in lacking)

    def test_time_from_earlier_records(self, place):
        found = by_key(record("ecapa-base", seconds=60.0), record("ecapa-ch", seconds=100.0))
        wanted = {one.name: one for one in listed(place, ["ecapa-*", "resnet-base"], seeds=(2,))}
        assert expected_seconds(wanted["ecapa-base-s2"], RECIPE, found) == 60
        assert expected_seconds(wanted["ecapa-mkd-cos-s2"], RECIPE, found) == 80
        assert expected_seconds(wanted["ecapa-clean-s1"], RECIPE, found) is None
        assert expected_seconds(wanted["resnet-base-s2"], RECIPE, found) is None
        assert expected_seconds(wanted["ecapa-ch-k-mean-after-s1"], RECIPE, found) == 0

    def test_records_of_other_data_are_other_flags(self):
        speakers = {"count": 30, "digest": "d1", "data": "full"}
        found = by_key(record("ecapa-base", speakers=speakers))
        rows = [ROWS["ecapa-base"]]

        def state(**data):
            (one,) = survey(rows, RECIPE, found, seeds=[1], ablation_seeds=[1], data=data)
            return one.state, one.differing

        assert state(telephone="full") == state() == ("done", [])
        assert state(telephone="simple") == ("other flags", ["other data in --telephone"])

    def test_what_makes_data_other_data(self, sharded, tested):
        again = tested.parent / "again"
        shutil.copytree(tested, again)
        one = identity([str(tested)])
        assert identity([str(again)]) == one
        (again / "shards.json").write_text('{"channel": "full", "copies": 3}')
        assert identity([str(again)]) != one
        with pytest.raises(ValueError, match="test"):
            identity([str(sharded)])


class TestRun:
    def test_what_has_a_record_is_not_run_again(self, place):
        trainer = Trainer()
        assert go(place, due(place, ["ecapa-base", "ecapa-ch"]), trainer) == {}
        assert trainer.made == ["ecapa-base-s1", "ecapa-clean-s1", "ecapa-ch-s1"]
        assert not due(place, ["ecapa-base", "ecapa-ch"])
        assert names(due(place, ["ecapa-base"], seeds=(1, 2))) == ["ecapa-base-s2"]

    def test_other_flags_only_by_force(self, place):
        go(place, due(place, ["ecapa-base"]), Trainer())
        wider = replace(RECIPE, ecapa=replace(RECIPE.ecapa, width=128))
        (kept,) = listed(place, ["ecapa-base"], wider)
        assert (kept.state, kept.differing) == ("other flags", ["--width 96, wanted 128"])
        assert not due(place, ["ecapa-base"], wider)
        again = due(place, ["ecapa-base"], wider, force=True)
        # the checkpoint of the narrow one must not be continued either
        assert "other flags" in go(place, again, Trainer(), wider)["ecapa-base-s1"]
        forced = replace(place, force=True)
        assert go(forced, again, Trainer(), wider) == {}
        assert listed(place, ["ecapa-base"], wider)[0].state == "done"

    def test_a_killed_run_goes_on(self, place):
        folder, flags = place.work / "ecapa-base-s1", flags_of(ROWS["ecapa-base"], 1, RECIPE)
        claim(folder, flags, place)
        (folder / "last.pt").touch()
        assert go(place, due(place, ["ecapa-base"]), Trainer()) == {}

    def test_a_strangers_checkpoint_is_taken_over_only_if_told(self, place):
        folder = place.work / "ecapa-base-s1"
        folder.mkdir(parents=True)
        (folder / "last.pt").touch()
        failed = go(place, due(place, ["ecapa-base"]), Trainer())
        assert "--adopt" in failed["ecapa-base-s1"]
        assert go(replace(place, adopt=True), due(place, ["ecapa-base"]), Trainer()) == {}

    def test_a_failing_row_says_why_and_the_rest_goes_on(self, place):
        trainer = Trainer(failing=["ecapa-clean-s1"])
        failed = go(place, due(place, ["ecapa-ch", "ecapa-base", "resnet-base"]), trainer)
        assert set(failed) == {"ecapa-clean-s1", "ecapa-ch-s1"}
        assert failed["ecapa-clean-s1"].endswith("one\ntwo\nlast words")
        assert "ecapa-clean-s1" in failed["ecapa-ch-s1"]
        assert {"ecapa-base-s1", "resnet-base-s1"} <= {r.name for r in read_all_of(place)}

    def test_what_another_process_runs_is_waited_for(self, place):
        trainer = Trainer(busy=["ecapa-clean-s1"])
        assert go(place, due(place, ["ecapa-ch", "ecapa-base"]), trainer) == {}
        assert trainer.made == [
            *("ecapa-base-s1", "ecapa-clean-s1"),
            *("ecapa-clean-s1", "ecapa-ch-s1"),
        ]

    def test_a_lock_is_held_by_one(self, tmp_path):
        with locked(tmp_path / "a.lock"), pytest.raises(Busy), locked(tmp_path / "a.lock"):
            pass
        with locked(tmp_path / "a.lock"):
            pass

    def test_the_tail_of_no_log(self, tmp_path):
        assert tail(tmp_path / "none.log") == ""


def read_all_of(place):
    return read_all(place.records).values()


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
