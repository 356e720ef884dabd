"""benchmarks/card.py: every figure from the files, every gap said, nothing of the machine."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

import card
from accuracy_outcomes import NAMES
from card_files import BLOCK, COST, PROBE, people, result, write, write_model
from model_card import text
from model_card.inputs import Unusable, public, read_model

SECTIONS = (
    "In short",
    "Where it fails, and for whom",
    "What it is",
    "What it is for",
    "What it is not for",
    "The law",
    "How good it is, class by class",
    "Women and men",
    "By gender and age band",
    "By speech heard",
    "By corpus",
    "By language",
    "By gender, age band, corpus and language",
    "When it decides",
    "Can its confidence be believed?",
    "Has it learned the corpus instead of the age?",
    "On other labels of the same split",
    "What it was trained on",
    "How it was trained",
    "What the data cannot show",
    "How this card was made",
)


@pytest.fixture(scope="module")
def measured():
    return result(), result(per_speaker=True)


@pytest.fixture
def files(tmp_path, measured):
    """A folder with a model and everything that was measured with it."""
    single, calls = copy.deepcopy(measured)
    write_model(tmp_path / "tiny.onnx")
    (tmp_path / "pictures").mkdir()
    for name, content in (
        ("accuracy", single),
        ("per-speaker", calls),
        ("clean", {**single, "manifest": "clean.tsv"}),
        ("probe", PROBE),
        ("voices", {"model": "tiny-1", "male_hz": 190.0, "female_hz": 140.0, "per_cell": {}}),
        ("cost", COST),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_every_section_stands_in_the_card_with_every_picture(files):
    status, page = write(files, "per-speaker", "clean", "probe", "voices", "cost")
    assert status == 0
    assert tuple(re.findall(r"^## (.+)$", page, re.MULTILINE)) == SECTIONS
    links = re.findall(r"!\[[^]]+\]\(([^)]+)\)", page)
    names = ("recall", "speech", "calibration", "corpus")
    assert links == [f"pictures/card_{name}.png" for name in names]
    for link in links:
        assert (files / link).read_bytes().startswith(b"\x89PNG")
    sections = page.split("\n## ")
    assert all(len(section.strip().splitlines()) > 2 for section in sections)
    assert "nan" not in page.lower().split()
    assert "None" not in page


def test_figures_come_from_the_json(files, measured):
    single = copy.deepcopy(measured[0])
    single["gender"]["adult"]["f1"] = 0.12345
    single["gender"]["adult"]["interval"]["f1"] = [0.11111, 0.22222]
    single["per_corpus"]["speechocean762"]["gender"]["recall"] = 0.444
    single["decided"]["gender"]["coverage"] = 0.31415
    single["calibration"]["age_band"]["ece"] = 0.27182
    single["fairness"]["bands"]["60+"]["gap_points"] = -33.44
    (files / "accuracy.json").write_text(json.dumps(single))
    _, page = write(files, "per-speaker", "probe", "cost", pictures=False)
    for figure in ("0.123 (0.111 to 0.222)", "| 0.44 (", "| 0.314 ", "| 0.272 ", "| -33.4 "):
        assert figure in page
    for figure in (
        "0.871 (0.800 to 0.930)",
        "0.778 (0.700 to 0.830)",
        "321 live calls",
        "1.23 CPU",
    ):
        assert figure in page
    assert "![" not in page


def test_what_the_student_is_comes_from_its_file(files):
    _, page = write(files)
    weights = BLOCK * sum(map(len, NAMES.values()))
    assert "# Model card: `tiny-1`" in page
    assert f"| parameters | {weights:,} |" in page
    assert "causal ECAPA-TDNN encoder" in page
    assert "channels 99, dilations 1 2, global context no" in page
    assert "| input | speech of one channel at 8,000 Hz, 160 ms a step |" in page
    # Two operations a weight, 6.25 blocks a second.
    assert f"| work | {2 * weights * 6.25 / 1e6:.0f} million operations" in page
    assert "| young | teens, 20s, 30s | 13 to 39 |" in page
    assert "| senior | 60+ | 60 and older |" in page
    assert "| gender | 1.5 s | 0.625 |" in page
    assert "| speechocean762 | CC-BY-4.0 |" in page
    assert "ask for attribution: speechocean762 (Zhang" in page.replace("asks", "ask")
    for row in ("| seed | 7 |", "| commit | `abc1234` |", "| balance | 0.25 |", "| layers | 1 2 |"):
        assert row in page
    assert "| macro F1 on dev | age group 0.500, gender 0.912 |" in page


def test_a_file_that_says_little_is_said_to(files):
    write_model(files / "tiny.onnx", provenance={})
    _, page = write(files)
    assert "no commit" not in page
    assert "Corpora of training: not said in the file." in page
    assert "| command | `not said in the file` |" in page
    assert "| seed | not said in the file |" in page


@pytest.mark.parametrize(
    ("shift", "said"),
    [
        (
            {"age_group": {"child": 0.0, "middle": 0.5}, "age_band": {"30s": -0.25}},
            "age band 30s -0.25, age group middle +0.5",
        ),
        ({"age_group": {"child": 0.0}}, "none gained enough"),
    ],
)
def test_shifted_answers_are_said(files, shift, said):
    write_model(files / "tiny.onnx", provenance={"shift": shift})
    _, page = write(files, pictures=False)
    assert f"| answers shifted, chosen on dev | {said} |" in page


def test_a_dirty_commit_is_said(files):
    write_model(files / "tiny.onnx", provenance={"commit": "abc1234-dirty"})
    _, page = write(files)
    assert "The code had changes that are in no commit" in page


def test_missing_files_are_said(files):
    status, page = write(files, pictures=False)
    assert status == 0
    assert tuple(re.findall(r"^## (.+)$", page, re.MULTILINE)) == SECTIONS
    assert "Whole calls, one per speaker, were not measured." in page
    assert "(`--probe` was not given)" in page
    assert "(`--clean` was not given)" in page
    assert "(`--cost` was not given)" in page
    assert "Not given: `--per-speaker`, `--probe`, `--clean`, `--voices`, `--cost`." in page


def test_nothing_of_people_or_machine_stands_in_it(files):
    _, page = write(files, "per-speaker", "clean", "probe", "cost")
    assert "secret" not in page
    assert str(files) not in page
    assert "--data shards --seed 7 --note=x.tsv" in page
    assert "| teacher | teacher.pt |" in page
    assert "1 call failed" in page


def test_a_path_that_would_slip_through_stops_it(files, measured, capsys):
    bad = {**measured[0], "manifest": "at /home/somebody/m.tsv"}
    (files / "accuracy.json").write_text(json.dumps(bad))
    assert write(files)[0] == 2
    assert (
        "a path of this machine would stand in the card: /home/somebody/" in capsys.readouterr().err
    )
    assert not (files / "CARD.md").exists()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("runs/shards stays", "runs/shards stays"),
        ("--data /srv/x/shards", "--data shards"),
        ("--data=/srv/x/shards", "--data=shards"),
        ("~/x/y.pt", "y.pt"),
        (r"C:\Users\me\y.pt", "y.pt"),
        ("https://storage.example/bucket/ltv", "ltv"),
        ("'/a b'", "a b'"),
    ],
)
def test_places_are_reduced_to_names(text, shown):
    assert public(text) == shown


def test_the_small_form_beside_the_file_may_be_what_was_measured(files, measured):
    made_from = {"quantised": {"from": "tiny-1"}}
    write_model(files / "tiny-int8.onnx", "tiny-int8-2", made_from)
    (files / "accuracy.json").write_text(json.dumps({**measured[0], "model": "tiny-int8-2"}))
    status, page = write(files)
    assert status == 0
    assert "By student `tiny-int8-2`, the 8-bit form of this file." in page
    write_model(files / "tiny-int8.onnx", "tiny-int8-2", {"quantised": {"from": "another"}})
    assert read_model(files / "tiny.onnx").small == ""
    assert write(files)[0] == 2


@pytest.mark.parametrize(
    ("role", "change", "says"),
    [
        ("accuracy", {"model": "other-9"}, "measured other-9, the model is tiny-1"),
        ("accuracy", {"fairness": ...}, "no fairness; write it again with"),
        ("accuracy", {"per_speaker": True}, "has a call per speaker"),
        ("accuracy", {"speakers": 0}, "no call was finished"),
        ("per-speaker", {"per_speaker": False}, "has a call per utterance"),
        ("clean", {"model": ""}, "measured nothing"),
        ("probe", {"corpus_probe": ...}, "no corpus_probe; not of train.probe --json"),
        ("voices", {"per_cell": ...}, "no per_cell; not of implausible.py"),
        ("voices", {"model": "other-9"}, "measured other-9, the model is tiny-1"),
        ("cost", {"max_calls": ...}, "no max_calls; not of throughput.py --json"),
    ],
)
def test_files_that_do_not_fit_are_refused(files, capsys, role, change, says):
    path = files / f"{role}.json"
    changed = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not ...}))
    assert write(files, *([] if role == "accuracy" else [role]))[0] == 2
    printed = capsys.readouterr().err
    assert f"--{role}" in printed
    assert says in printed
    assert printed.count("\n") == 1


def test_files_that_are_none_are_refused(files, capsys, tmp_path_factory):
    def refused(says):
        assert write(files)[0] == 2
        assert says in capsys.readouterr().err

    (files / "accuracy.json").write_text("{")
    refused("--accuracy")
    (files / "accuracy.json").unlink()
    refused("No such file")
    (files / "tiny.onnx").write_bytes(b"no model")
    refused("not an ONNX file")
    words = ["--model", "m", "--accuracy", "a", "--out", str(files / "CARD.md"), "--pictures"]
    assert card.main([*words, str(tmp_path_factory.mktemp("elsewhere"))]) == 2
    assert "not in the folder of the card" in capsys.readouterr().err
    assert card.main([*words, str(files / "absent")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_a_manifest_without_languages_is_said(files):
    bare = result(outcomes=people(language=None))
    for one in bare["unmeasured"]:
        assert "no column language" in one or "calls have no" in one
    (files / "accuracy.json").write_text(json.dumps(bare))
    _, page = write(files)
    assert "Not measured: the manifest does not name them." in page
    assert "Languages were not measured" in page
    assert "no column language: there are no figures by language" in page


def test_the_fixed_text_names_what_it_must():
    said = text.NOT_FOR + text.LAW
    for word in (
        "recorded or perceived",
        "not gender identity",
        "pricing",
        "eligibility",
        "employment",
        "age verification",
        "covert profiling",
        "not legal advice",
        "EU AI Act",
        "GDPR",
        "BIPA",
        "Korea",
    ):
        assert word in said


def test_korean_and_few_people_are_limits(files):
    _, page = write(files)
    assert "**Korean**: too few speakers in the test for a row of their own." in page
    assert "all from one corpus (speechocean762): a model can learn the corpus" in page
    assert "female child (8), male child (8)" in page
    assert "male 40s (4)" in page


def test_unusable_is_one_line():
    with pytest.raises(Unusable, match="No such file"):
        read_model(Path("absent.onnx"))
