"""The comparison with other systems: calls, processes, command line. Installs nothing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

from peers import __main__ as command
from peers import child, cost, environments, gender, recompute, rows
from peers.environments import Child, Unavailable, interpreter, one_line
from peers.gender import Recording, read, sampled
from peers.rows import OURS, PRAAT, TREES_44K, CostRow, Environment, GenderRow, System
from scoring.manifest import Utterance, plan_calls

from streamer.audio.codec import Encoding

ROOT = Path(__file__).parents[2]
CORE = max(environments.os.sched_getaffinity(0))
COST_ROWS = {row.key: row for row in rows.COST_ROWS}
QUIET = Console(quiet=True)


def utterance(number, speaker, **other):
    labels = {"gender": "female", "age_band": "30s", "split": "test", "path": Path(f"{number}.wav")}
    return Utterance(id=str(number), corpus="c", speaker=speaker, **(labels | other))


def recording(truth="female", speaker="a", seconds=1.0, hertz=200.0):
    time = np.arange(round(16_000 * seconds)) / 16_000
    wide = (8000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)
    return Recording(truth, speaker, bytes(n % 256 for n in range(round(8000 * seconds))), wide)


class TestCalls:
    def test_a_sample_takes_every_speaker_before_one_twice(self):
        speakers = ["a"] * 50 + ["b"] * 3 + ["c"] + ["", ""]
        everyone = [utterance(n, speaker) for n, speaker in enumerate(speakers)]
        five = sampled(everyone, 5, seed=1)
        assert sorted(u.speaker for u in five) == ["", "", "a", "b", "c"]
        assert [int(u.id) for u in five] == sorted(int(u.id) for u in five)
        assert sampled(everyone, 5, seed=1) == five
        assert sampled(everyone, 5, seed=2) != five
        assert sampled(everyone, None, seed=1) == sampled(everyone, 99, seed=1) == everyone

    def test_are_given_in_the_form_that_a_system_requires(self):
        call = recording()
        assert call.form("telephone", OURS) == (call.telephone, Encoding.MULAW, 8000)
        same, encoding, rate = call.form("wideband", OURS)
        assert (np.frombuffer(same, "<i2") == call.wideband).all()
        assert (encoding, rate) == (Encoding.LINEAR16, 16_000)
        assert len(call.form("telephone", TREES_44K)[0]) == 2 * 44_100
        assert (call.seconds("telephone"), call.seconds("wideband")) == (1.0, 1.0)

    def test_of_one_speaker_are_joined_alike_in_both_conditions(self, tmp_path):
        for number in range(2):
            noise = np.random.default_rng(number).normal(0, 0.1, 16_000)
            soundfile.write(tmp_path / f"{number}.wav", noise, 16_000)
        both = [utterance(n, "s", path=tmp_path / f"{n}.wav") for n in range(2)]
        (plan,) = plan_calls(both, per_speaker=True)
        call = read(plan, "full")
        assert call.seconds("telephone") == call.seconds("wideband") == 2.6
        assert not call.wideband[16_000 : 16_000 + 9_600].any()
        assert read(replace(plan, paths=plan.paths * 40), "full").seconds("wideband") == 60.0
        with pytest.raises(ValueError, match=r"none\.wav") as error:
            read(replace(plan, paths=(tmp_path / "none.wav",)), "full")
        assert str(tmp_path) not in str(error.value)

    def test_of_the_demo_are_the_same_bytes_from_other_points(self):
        two, five = cost.demo_calls(2), cost.demo_calls(2, 5)
        assert [len(call) for call in five] == [16_000] * 5
        assert five[0] == two[0]
        assert five[2] != two[0]
        assert sorted(five[4]) == sorted(two[0])

    def test_windows_are_due_each_half_second_with_speech(self):
        call = child.Sound(cost.demo_calls(20)[0], Encoding.MULAW, 8000)
        found = list(recompute.windows(call))
        assert 8 <= len(found) <= 2 * 20
        assert 0.5 * 8000 <= len(found[0]) < 3 * 8000
        assert len(found[-1]) == 3 * 8000
        assert list(recompute.windows(replace(call, data=b"\xff" * 80_000))) == []


FAKE = """
from peers.child import Answer


def load(options):
    print("libraries print")
    {load}

    def process(sounds):
        print("here too")
        if sounds[0].rate == 8000:
            raise ValueError("too\\nnarrow")
        return [Answer("male", "", float(len(s.samples)), {predictions}) for s in sounds]

    return "fake 1", process
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Make a system whose module is written here."""
    folder = tmp_path / "benchmarks" / "peers"
    folder.mkdir(parents=True)
    path = f"__path__.append({str(ROOT / 'benchmarks' / 'peers')!r})\n"
    (folder / "__init__.py").write_text(path)
    monkeypatch.setattr(environments, "BENCHMARKS", folder.parent)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    before = environments.process_environment

    def reachable():
        made = before()
        return made | {"PYTHONPATH": f"{made['PYTHONPATH']}:{ROOT}"}

    monkeypatch.setattr(environments, "process_environment", reachable)

    def make(load="", predictions=1, **other):
        (folder / "fake.py").write_text(FAKE.format(load=load, predictions=predictions))
        return System("fake", "fake", **({"telephone_rate": 8000} | other))

    return make


@pytest.fixture
def options(tmp_path):
    made = command.parse(["cost", "--seconds", "2", "--rounds", "1", "--calls", "2"])
    made.environments = tmp_path
    return made


def ask(system, calls, options, tmp_path, tuning=()):
    with gender.Progress(console=QUIET) as progress:
        return gender.ask_gender(system, calls, tuning, options, tmp_path / "call.raw", progress)


class TestProcesses:
    def test_answers_line_by_line_and_errors_are_unanswered(self, fake, options, tmp_path):
        calls = [recording(), recording("male", "b")]
        found = ask(fake(), calls, options, tmp_path)
        assert found["version"] == "fake 1"
        assert 0 < found["load_cpu_s"] < 10
        narrow, wide = found["replies"]["telephone"], found["replies"]["wideband"]
        assert [reply["error"] for reply in narrow] == ["ValueError: too narrow"] * 2
        assert wide[0]["answers"] == [
            {"label": "male", "decided": "", "hertz": 16_000.0, "predictions": 1}
        ]
        assert 5 < wide[0]["peak_mib"] < 500
        row = GenderRow("fake", "a fake", fake(), "what")
        (made,) = gender.gender_rows([row], {"fake": found}, calls)
        narrow, wide = made["conditions"]["telephone"], made["conditions"]["wideband"]
        assert (narrow["failed"], narrow["unanswered"]) == (2, 2)
        assert narrow["first_failure"] == "ValueError: too narrow"
        assert wide["accuracy"]["value"] == 0.5

    def test_that_cannot_run_give_a_reason(self, fake, options, tmp_path, monkeypatch):
        for load, message in (
            ('raise OSError("no weights")', "OSError: no weights"),
            ("import os; os._exit(3)", "ended with 3"),
        ):
            with pytest.raises(Unavailable, match=message):
                ask(fake(load), [recording()], options, tmp_path)

        def fail(_):
            raise Unavailable("not installed: no wheel")

        monkeypatch.setattr(environments, "_run", fail)
        absent = fake(environment=Environment("absent", ("none==0",)))
        with pytest.raises(Unavailable, match="no wheel"):
            ask(absent, [recording()], options, tmp_path)

    def test_ours_answers_as_the_server_and_not_without_speech(self, options, tmp_path):
        found = ask(OURS, [recording(), recording("male", "b")], options, tmp_path)
        assert found["version"].startswith("ecapa")
        replies = [reply for each in found["replies"].values() for reply in each]
        assert {reply["error"] for reply in replies} == {None}
        assert all(r["answers"][0]["decided"] in ("", r["answers"][0]["label"]) for r in replies)
        process = Child(OURS, tmp_path, None, CORE)
        (tmp_path / "silence").write_bytes(b"\xff" * 8000)
        (answer,) = process.ask(tmp_path / "silence", Encoding.MULAW, 8000)["answers"]
        process.stop()
        assert (answer["label"], answer["decided"], answer["predictions"]) == ("", "", 0)

    def test_cost_of_ours_beside_systems_that_cannot_run(self, fake, options, monkeypatch):
        def fail(words):
            raise Unavailable(f"not installed: {words[1]} {words[2]}")

        monkeypatch.setattr(environments, "_run", fail)
        absent = System("absent", "fake", environment=Environment("absent", ("none==0",)))
        silent = fake(predictions=0, telephone_rate=16_000)
        made = cost.measure(
            [
                COST_ROWS["ours"],
                CostRow("absent", "absent", absent, ""),
                CostRow("broken", "broken", System("broken", "no_such_module"), ""),
                CostRow("silent", "silent", silent, ""),
            ],
            options,
            QUIET,
        )
        ours, *others = made["rows"]
        assert ours["cpu_ms_per_call_s"] > 0
        assert ours["ratio"] == 1.0
        assert [row["reason"] for row in others] == [
            "not installed: -m venv",
            "ModuleNotFoundError: No module named 'peers.no_such_module'",
            "no prediction: there is nothing to compare",
        ]
        assert not made["complete"]
        assert made["findings"]["did_not_run"] == ["absent", "broken", "silent"]

    def test_an_environment_is_made_once(self, tmp_path, monkeypatch):
        commands = []

        def note(words):
            commands.append(words[1:3])
            (tmp_path / "some").mkdir(exist_ok=True)

        monkeypatch.setattr(environments, "_run", note)
        some = Environment("some", ("a==1",), ("b==2",))
        assert interpreter(some, tmp_path) == tmp_path / "some" / "bin" / "python"
        assert commands == [["-m", "venv"], ["-m", "pip"], ["-m", "pip"]]
        interpreter(some, tmp_path)
        assert len(commands) == 3
        interpreter(Environment("some", ("a==2",)), tmp_path)
        assert len(commands) == 5  # other pins: made again

    def test_a_reason_is_one_line_without_paths(self):
        text = f"Traceback\n  File {ROOT}/x.py\nERROR: No matching distribution\n\n"
        assert one_line(text) == "ERROR: No matching distribution"
        assert str(ROOT) not in one_line(f"cannot open {ROOT}/x.py")
        assert one_line("") == "no message"


class TestCommand:
    def test_measures_gender_from_a_manifest(self, tmp_path, monkeypatch, capsys):
        lines = ["\t".join(("id", "corpus", "speaker", "gender", "age_band", "split", "path"))]
        for number, label in enumerate(("female", "male")):
            tone = recording(hertz=120.0 + 80 * number).wideband
            soundfile.write(tmp_path / f"{number}.wav", tone, 16_000)
            lines.append(f"{number}\tc\ts{number}\t{label}\t30s\ttest\t{number}.wav")
        lines.append("9\tc\ts9\tmale\tchild\ttest\tabsent.wav")  # no adult
        (tmp_path / "m.tsv").write_text("\n".join(lines) + "\n")
        monkeypatch.chdir(tmp_path)
        words = ["gender", "--manifest", "m.tsv", "--only", "ours", "ours_decided"]
        assert command.main([*words, "--json", "out.json"]) == 0
        found = json.loads((tmp_path / "out.json").read_text())
        assert [row["key"] for row in found["rows"]] == ["ours", "ours_decided"]
        assert (found["calls"], found["manifest"]) == (2, "m.tsv")
        assert str(tmp_path) not in (tmp_path / "out.json").read_text()
        assert command.main([*words, "--split", "none"]) == 2
        assert "none" in capsys.readouterr().err

    @pytest.mark.parametrize(
        "words", [["--limit", "0"], ["--split", "dev"], ["--json", "no/such/x"], ["--only", "x"]]
    )
    def test_unusable_arguments(self, words, capsys):
        with pytest.raises(SystemExit, match="2"):
            command.parse(["gender", "--manifest", "m.tsv", *words])
        assert words[0] in capsys.readouterr().err

    def test_praat_is_the_system_that_is_tuned(self):
        tuned = [row.system for row in rows.GENDER_ROWS if row.read == "tuned"]
        assert tuned == [PRAAT]
