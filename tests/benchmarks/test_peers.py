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
from peers import child, cost, environments, gender, rows, systems
from peers.environments import Child, Unavailable, interpreter, one_line
from peers.gender import Recording, read
from peers.rows import OURS, PRAAT, SVM, Environment, PeerRow, System
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
    def test_are_given_in_the_form_that_a_system_requires(self):
        call = recording()
        assert call.form("telephone", OURS) == (call.telephone, Encoding.MULAW, 8000)
        same, encoding, rate = call.form("wideband", OURS)
        assert (np.frombuffer(same, "<i2") == call.wideband).all()
        assert (encoding, rate) == (Encoding.LINEAR16, 16_000)
        assert len(call.form("telephone", SVM)[0]) == 2 * 16_000
        assert (call.seconds("telephone"), call.seconds("wideband")) == (1.0, 1.0)

    def test_of_one_speaker_are_joined_alike_in_both_conditions(self, tmp_path):
        for number in range(2):
            noise = np.random.default_rng(number).normal(0, 0.1, 16_000)
            soundfile.write(tmp_path / f"{number}.wav", noise, 16_000)
        both = [utterance(n, "s", path=tmp_path / f"{n}.wav") for n in range(2)]
        (plan,) = plan_calls(both, per_speaker=True)
        call = read(plan)
        assert call.seconds("telephone") == call.seconds("wideband") == 2.6
        assert not call.wideband[16_000 : 16_000 + 9_600].any()
        assert read(replace(plan, paths=plan.paths * 40)).seconds("wideband") == 60.0
        with pytest.raises(ValueError, match=r"none\.wav") as error:
            read(replace(plan, paths=(tmp_path / "none.wav",)))
        assert str(tmp_path) not in str(error.value)

    def test_of_the_demo_are_the_same_bytes_from_other_points(self):
        two, five = cost.demo_calls(2), cost.demo_calls(2, 5)
        assert [len(call) for call in five] == [16_000] * 5
        assert five[0] == two[0]
        assert five[2] != two[0]
        assert sorted(five[4]) == sorted(two[0])

    def test_windows_are_due_each_half_second_with_speech(self):
        call = child.Sound(cost.demo_calls(20)[0], Encoding.MULAW, 8000)
        found = list(systems.windows(call))
        assert 8 <= len(found) <= 2 * 20
        assert 0.5 * 8000 <= len(found[0]) < 3 * 8000
        assert len(found[-1]) == 3 * 8000
        assert list(systems.windows(replace(call, data=b"\xff" * 80_000))) == []


FAKE = """
from peers.child import Answer


def load(model):
    print("libraries print")
    {load}

    def process(sounds):
        print("here too")
        if sounds[0].rate == 8000:
            raise ValueError("too\\nnarrow")
        return [Answer("male", float(len(s.samples)), {predictions}) for s in sounds]

    return "fake 1", process
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Make a system whose module is written here."""
    monkeypatch.setattr(environments, "PATHS", (*environments.PATHS, tmp_path))

    def make(load="", predictions=1, **other):
        (tmp_path / "fake.py").write_text(FAKE.format(load=load, predictions=predictions))
        return System("fake:load", **({"telephone_rate": 8000} | other))

    return make


@pytest.fixture
def options(tmp_path):
    made = command.parse(["cost", "--seconds", "2", "--rounds", "1"])
    made.environments = tmp_path
    return made


def ask(system, calls, options, tuning=()):
    with gender.Progress(console=QUIET) as progress:
        return gender.ask_gender(system, calls, tuning, options, progress)


class TestProcesses:
    def test_answers_line_by_line_and_errors_are_unanswered(self, fake, options):
        calls = [recording(), recording("male", "b")]
        found = ask(fake(), calls, options)
        assert found["version"] == "fake 1"
        assert 0 < found["load_cpu_s"] < 10
        narrow, wide = found["replies"]["telephone"], found["replies"]["wideband"]
        assert [reply["error"] for reply in narrow] == ["ValueError: too narrow"] * 2
        assert wide[0]["answers"] == [{"label": "male", "hertz": 16_000.0, "predictions": 1}]
        assert 5 < wide[0]["peak_mib"] < 500
        row = PeerRow("fake", "a fake", fake(), "what")
        (made,) = gender.gender_rows([row], {row.system: found}, calls)
        narrow, wide = made["conditions"]["telephone"], made["conditions"]["wideband"]
        assert (narrow["failed"], narrow["unanswered"]) == (2, 2)
        assert narrow["first_failure"] == "ValueError: too narrow"
        assert wide["accuracy"]["value"] == 0.5

    def test_that_cannot_run_give_a_reason(self, fake, options, monkeypatch):
        found = ask(fake('raise OSError("no weights")'), [recording()], options)
        assert found == {"reason": "OSError: no weights"}
        found = ask(fake("import os; os._exit(3)"), [recording()], options)
        assert "ended with 3" in found["reason"]

        def fail(_):
            raise Unavailable("not installed: no wheel")

        monkeypatch.setattr(environments, "_run", fail)
        absent = fake(environment=Environment("absent", ("none==0",)))
        assert ask(absent, [recording()], options) == {"reason": "not installed: no wheel"}

    def test_the_tuned_threshold_is_that_of_the_other_split(self, fake, options):
        tuning = [recording("male", hertz=100, seconds=1.0)]
        found = ask(fake(telephone_rate=16_000), [recording()], options, tuning)
        # every pitch is 16 000 Hz, above all thresholds: none is better than another
        assert found["thresholds"] == dict.fromkeys(gender.CONDITIONS, 175.0)

    def test_ours_answers_as_the_server_and_not_without_speech(self, options, tmp_path):
        found = ask(OURS, [recording(), recording("male", "b")], options)
        assert found["version"].startswith("ecapa")
        replies = [reply for each in found["replies"].values() for reply in each]
        assert {reply["error"] for reply in replies} == {None}
        assert {r["answers"][0]["label"] for r in replies} <= {"female", "male"}
        process = Child(OURS, tmp_path, None, CORE)
        (tmp_path / "silence").write_bytes(b"\xff" * 8000)
        (answer,) = process.ask(tmp_path / "silence", Encoding.MULAW, 8000)["answers"]
        process.stop()
        assert (answer["label"], answer["predictions"]) == ("", 0)

    def test_cost_of_ours_beside_systems_that_cannot_run(self, fake, options, monkeypatch):
        def fail(words):
            raise Unavailable(f"not installed: {words[1]} {words[2]}")

        monkeypatch.setattr(environments, "_run", fail)
        absent = System("absent", environment=Environment("absent", ("none==0",)))
        silent = fake(predictions=0, telephone_rate=16_000)
        made = cost.measure(
            [
                COST_ROWS["ours"],
                PeerRow("absent", "absent", absent, ""),
                PeerRow("broken", "broken", System("no_such_module:load"), ""),
                PeerRow("silent", "silent", silent, ""),
            ],
            options,
            QUIET,
        )
        ours, *others = made["rows"]
        assert ours["cpu_ms_per_call_s"] > 0
        assert ours["ratio"] == 1.0
        assert [row["reason"] for row in others] == [
            "not installed: -m venv",
            "ModuleNotFoundError: No module named 'no_such_module'",
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
        words = ["gender", "--manifest", "m.tsv", "--only", "ours"]
        assert command.main([*words, "--json", "out.json"]) == 0
        found = json.loads((tmp_path / "out.json").read_text())
        assert [row["key"] for row in found["rows"]] == ["ours"]
        assert (found["calls"], found["manifest"]) == (2, "m.tsv")
        assert "voicecohort" in capsys.readouterr().out
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
