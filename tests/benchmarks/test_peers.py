"""benchmarks/peers.py: sample, child protocol, rows, tables. Nothing is installed here."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))  # its scripts import each other by plain name

import peers  # noqa: E402
from gender_peers.calls import Recording, adults, form, read, sampled  # noqa: E402
from gender_peers.report import markdown, picture, shown  # noqa: E402
from gender_peers.run import Heard, answers, described, findings, hear, rows  # noqa: E402
from neighbours import running  # noqa: E402
from neighbours.answerers import ANSWERERS, OURS, Answerer, Reading  # noqa: E402
from neighbours.answering import Said, answered, heard, request  # noqa: E402
from neighbours.catalogue import Environment  # noqa: E402
from neighbours.running import Child, Unavailable  # noqa: E402
from scoring.manifest import Labelled  # noqa: E402
from scoring.plans import plans  # noqa: E402

from streamer.audio.codec import Encoding  # noqa: E402

BY_KEY = {answerer.key: answerer for answerer in ANSWERERS}
CORE = max(running.os.sched_getaffinity(0))


def utterance(number, speaker, **other):
    facts = {"gender": "female", "age_band": "30s", "split": "test", "path": Path(f"{number}.wav")}
    return Labelled(id=str(number), corpus="c", speaker=speaker, **(facts | other))


def recording(truth="female", person="a", seconds=1.0, hertz=200.0):
    time = np.arange(round(16_000 * seconds)) / 16_000
    wide = (8000 * np.sin(2 * np.pi * hertz * time)).astype(np.int16)
    return Recording(truth, person, bytes(n % 256 for n in range(round(8000 * seconds))), wide)


def test_adults_are_of_known_gender_and_age():
    wrong = [{"gender": ""}, {"gender": "other"}, {"age_band": ""}, {"age_band": "child"}]
    found = adults([utterance(n, "s", **facts) for n, facts in enumerate([*wrong, {}])])
    assert [u.id for u in found] == ["4"]


def test_a_sample_takes_every_speaker_before_it_takes_one_twice():
    speakers = ["a"] * 50 + ["b"] * 3 + ["c"] + ["", ""]
    everyone = [utterance(n, speaker) for n, speaker in enumerate(speakers)]
    five = sampled(everyone, 5, seed=1)
    assert sorted(u.speaker for u in five) == ["", "", "a", "b", "c"], "no name is nobody's second"
    assert [int(u.id) for u in five] == sorted(int(u.id) for u in five)
    assert sorted(u.speaker for u in sampled(everyone, 8, seed=1)).count("b") in (2, 3)
    assert sampled(everyone, 5, seed=1) == five
    assert sampled(everyone, 5, seed=2) != five
    assert sampled(everyone, None, seed=1) == sampled(everyone, 99, seed=1) == everyone


def test_a_call_is_given_in_the_form_that_a_peer_takes():
    call = recording()
    assert form(call, "telephone", None) == (call.telephone, Encoding.MULAW, 8000)
    same, encoding, rate = form(call, "wideband", 16_000)
    assert (np.frombuffer(same, "<i2") == call.wideband).all()
    assert (encoding, rate) == (Encoding.LINEAR16, 16_000)
    assert len(form(call, "telephone", 16_000)[0]) == 2 * 16_000
    assert len(form(call, "wideband", 44_100)[0]) == 2 * 44_100
    assert (call.seconds("telephone"), call.seconds("wideband")) == (1.0, 1.0)


def test_a_speakers_utterances_are_joined_alike_in_both_conditions(tmp_path):
    for number in range(2):
        noise = np.random.default_rng(number).normal(0, 0.1, 16_000)
        soundfile.write(tmp_path / f"{number}.wav", noise, 16_000)
    both = [utterance(n, "s", path=tmp_path / f"{n}.wav") for n in range(2)]
    (plan,) = plans(both, per_speaker=True)
    call = read(plan, "full")
    assert call.seconds("telephone") == call.seconds("wideband") == 2.6
    assert not call.wideband[16_000 : 16_000 + 9_600].any()
    assert read(replace(plan, paths=plan.paths * 40), "full").seconds("wideband") == 60.0
    with pytest.raises(ValueError, match=r"none\.wav") as error:
        read(replace(plan, paths=(tmp_path / "none.wav",)), "full")
    assert str(tmp_path) not in str(error.value)


FAKE = """
from neighbours.answering import Said, serve


def load(options):
    print("libraries print")
    {load}

    def answer(sound):
        print("now too")
        if sound.rate == 8000:
            raise ValueError("too\\nnarrow")
        return Said(label="male", sure="", hertz=float(len(sound.samples)))

    return "fake 1", answer


serve(load)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a peer whose module is written here."""
    folder = tmp_path / "benchmarks" / "neighbours"
    folder.mkdir(parents=True)
    path = f"__path__.append({str(ROOT / 'benchmarks' / 'neighbours')!r})\n"
    (folder / "__init__.py").write_text(path)
    monkeypatch.setattr(running, "BENCHMARKS", folder.parent)

    def make(load=""):
        (folder / "fake.py").write_text(FAKE.format(load=load))
        return Answerer("fake", "fake", (Reading("fake", "a fake", "what"),), None, 8000)

    return make


def ask_all(answerer, calls, tmp_path, tuning=()):
    told = []
    found = hear(
        answerer,
        calls,
        tuning,
        environments=tmp_path,
        scratch=tmp_path,
        model=None,
        core=CORE,
        told=lambda: told.append(1),
    )
    return found, len(told)


def test_a_process_answers_line_by_line(fake, tmp_path):
    found, told = ask_all(fake(), [recording(), recording("male", "b")], tmp_path)
    assert (found.version, found.reason, told) == ("fake 1", "", 4)
    narrow, wide = found.said["telephone"], found.said["wideband"]
    assert [each["error"] for each in narrow] == ["ValueError: too narrow"] * 2
    assert [each["label"] for each in narrow + wide] == ["", "", "male", "male"]
    assert wide[0]["hertz"] == 16_000
    assert 5 < wide[0]["peak_mib"] < 500
    assert wide[0]["cpu_s"] >= 0
    assert 0 < found.load_cpu_s < 10
    (row,) = rows([(fake(), found)], [recording(), recording("male", "b")])
    assert row["conditions"]["telephone"]["failed"] == 2
    assert row["conditions"]["telephone"]["unanswered"] == 2
    assert row["conditions"]["telephone"]["first_failure"] == "ValueError: too narrow"
    assert row["conditions"]["wideband"]["accuracy"]["value"] == 0.5


def test_a_peer_that_cannot_run_is_a_reason(fake, tmp_path, monkeypatch):
    found, _ = ask_all(fake('raise OSError("no weights")'), [recording()], tmp_path)
    assert found.reason == "OSError: no weights"
    found, _ = ask_all(fake("import os; os._exit(3)"), [recording()], tmp_path)
    assert "ended with 3" in found.reason

    def fail(_):
        raise Unavailable("not installed: no wheel")

    monkeypatch.setattr(running, "_run", fail)
    absent = replace(fake(), environment=Environment("absent", ("none==0",)))
    found, _ = ask_all(absent, [recording()], tmp_path)
    (row,) = rows([(absent, found)], [recording()])
    assert (row["reason"], row["conditions"]) == ("not installed: no wheel", {})


def test_ours_answers_what_the_server_would(tmp_path):
    calls = [recording(seconds=0.3), recording("male", "b")]
    found, _ = ask_all(BY_KEY[OURS], calls, tmp_path)
    assert found.version.startswith("ecapa")
    assert {each["error"] for said in found.said.values() for each in said} == {None}
    assert all(each["sure"] in ("", each["label"]) for each in found.said["wideband"])
    child = Child("gender_ours", Path(sys.executable), [], CORE)
    (tmp_path / "silence").write_bytes(b"\xff" * 8000)
    said = child.ask(request(tmp_path / "silence", Encoding.MULAW, 8000))
    child.stop()
    assert (said["label"], said["sure"]) == ("", ""), "no speech, no answer"


def test_an_answer_that_raises_has_a_cost(tmp_path):
    path = tmp_path / "call.raw"
    path.write_bytes(b"\x00" * 160)
    sound = heard(request(path, Encoding.LINEAR16, 16_000))
    assert (sound.rate, len(sound.samples)) == (16_000, 80)

    def fail(_):
        raise KeyError

    assert answered(fail, sound)["error"] == "KeyError: no message"
    assert answered(lambda _: Said("male"), sound)["label"] == "male"


def said(label="", sure=None, hertz=None):
    cost = {"error": None, "cpu_s": 0.002, "peak_mib": 90.0}
    return {"label": label, "sure": sure, "hertz": hertz, **cost}


def test_answers_are_read_as_the_row_says():
    both = [said("male", "", 100.0), said("female", "female", 180.0)]
    assert answers(both, "likeliest", None) == ["male", "female"]
    assert answers(both, "sure", None) == ["", "female"]
    assert answers(both, 165.0, None) == ["male", "female"]
    assert answers(both, "tuned", 190.0) == ["male", "male"]


@pytest.fixture
def result():
    calls = [recording(truth, str(n)) for n, truth in enumerate(["female", "male"] * 6)]
    right = [said(r.truth, r.truth, 200.0) for r in calls]
    pitch = [said(hertz=170.0 + 5 * n) for n in range(len(calls))]
    ours = Heard("ecapa", 0.5, {"telephone": right, "wideband": right})
    tuned = {"telephone": 181.0, "wideband": 181.0}
    theirs = Heard("praat", 0.2, {"telephone": pitch, "wideband": pitch}, tuned)
    absent = Heard(reason="OSError: no | weights")
    keys = (OURS, "pitch", "inaspeechsegmenter")
    made = rows([(BY_KEY[k], h) for k, h in zip(keys, (ours, theirs, absent), strict=True)], calls)
    facts = {"manifest": "m.tsv", "split": "test", "band": "full", "per_speaker": False}
    facts |= {"limit": 12, "seed": 1, "device": "a machine"}
    return {"rows": made, "findings": findings(made), **described(calls), **facts}


def test_rows_tell_how_far_ours_is_ahead(result):
    by_key = {row["key"]: row for row in result["rows"]}
    entry = by_key["pitch_tuned"]["conditions"]["telephone"]
    assert entry["threshold_hz"] == 181.0
    assert entry["ours_ahead"]["f1"]["value"] > 0
    assert by_key["pitch_textbook"]["conditions"]["telephone"]["threshold_hz"] == 165.0
    assert by_key[OURS]["conditions"]["telephone"]["ours_ahead"] is None
    assert entry["cpu_s_per_audio_s"] == pytest.approx(0.002, rel=0.02)
    assert result["findings"]["did_not_run"] == ["inaspeechsegmenter"]
    assert result["findings"]["telephone"]["best_peer"] == "pitch_tuned"
    assert result["findings"]["wideband"]["ahead_of_all"] is True
    assert result["findings"]["wideband"]["lead"] == entry["ours_ahead"]["f1"]
    assert findings([])["telephone"]["ahead_of_all"] is None


def test_table_and_picture_tell_of_every_row(result, tmp_path):
    text = markdown(result)
    assert all(row["title"] in text for row in result["rows"])
    assert "Reason: `OSError: no | weights`" in text
    assert "(181 Hz)" in text
    assert "beyond the chance" in text
    assert "--limit 12 --seed 1" in text
    picture(result, tmp_path / "out.png")
    assert (tmp_path / "out.png").stat().st_size > 10_000
    json.dumps(result, allow_nan=False)
    assert shown({"value": -0.5, "interval": [-0.6, 0.1]}, signed=True) == (
        "−0.500 [−0.600, +0.100]"  # noqa: RUF001 - minus signs
    )
    assert shown(None) == shown({"value": None, "interval": None})


def test_nobody_ran(result, tmp_path):
    absent = [row for row in result["rows"] if row["reason"]]
    nobody = result | {"rows": absent, "findings": findings(absent)}
    assert "Did not run" in markdown(nobody)
    picture(nobody, tmp_path / "out.png")


def test_the_command_line_measures_and_says_what_is_wrong(tmp_path, monkeypatch, capsys):
    lines = ["\t".join(("id", "corpus", "speaker", "gender", "age_band", "split", "path"))]
    for number, gender in enumerate(("female", "male")):
        tone = recording(hertz=120.0 + 80 * number).wideband
        soundfile.write(tmp_path / f"{number}.wav", tone, 16_000)
        lines.append(f"{number}\tc\ts{number}\t{gender}\t30s\ttest\t{number}.wav")
    manifest = tmp_path / "m.tsv"
    manifest.write_text("\n".join(lines) + "\n")
    monkeypatch.chdir(tmp_path)
    words = ["--manifest", str(manifest), "--peers", OURS, "--json", "out.json"]
    assert peers.main(words) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert [row["key"] for row in found["rows"]] == [OURS, "ours_decided"]
    assert (found["calls"], found["manifest"]) == (2, "m.tsv")
    assert str(tmp_path) not in (tmp_path / "out.json").read_text()
    assert peers.main([*words, "--split", "none"]) == 2
    assert "none" in capsys.readouterr().err
    for wrong in (["--limit", "0"], ["--split", "dev"], ["--json", "no/such/folder"]):
        with pytest.raises(SystemExit, match="2"):
            peers.parse(["--manifest", "m.tsv", *wrong])
