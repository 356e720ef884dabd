"""What is run, and what is run again."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(Path(__file__).parent)]  # import each other by name

from paper_table.data import identity  # noqa: E402
from paper_table.plan import chosen, expected_seconds, survey, todo, without_folders  # noqa: E402
from paper_table.recipe import flags_of  # noqa: E402
from paper_table.records import read_all, write  # noqa: E402
from paper_table.rows import ROWS  # noqa: E402
from paper_table.run import Busy, Place, claim, locked, run_all, tail  # noqa: E402
from table1_records import ALL_FOLDERS, EVERY, QUIET, RECIPE, by_key, record  # noqa: E402


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
