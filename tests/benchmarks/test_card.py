"""benchmarks/card.py: every figure from the files, every gap said, nothing of the machine."""

from __future__ import annotations

import copy
import json
import re
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

import card
from accuracy_outcomes import CLASSES, NAMES, failed, outcome
from model_card import findings as say
from model_card import text
from model_card.inputs import Unusable, public, read_model
from scoring.result import assemble

from model.labels import DEFAULT_TREE

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
BLOCK, STATE = 1280, 5


def crowd(count, wrong, gender, band, said_band=None, **kwargs):
    """Calls of so many speakers, the first ``wrong`` of them taken for the other gender."""
    other = {"male": "female", "female": "male"}[gender]
    return [
        outcome(
            gender,
            other if number < wrong else gender,
            band,
            said_band or band,
            speaker=f"secret-{gender}-{band}-{number}",
            **kwargs,
        )
        for number in range(count)
    ]


def people(*, language="en"):
    """A test of 89 speakers: women of 60 and older are told worst, and taken for young."""
    spoken = {"language": language}
    return [
        *crowd(8, 3, "female", "child", corpus="speechocean762", **spoken),
        *crowd(8, 4, "male", "child", corpus="speechocean762", **spoken),
        *crowd(20, 1, "female", "20s", corpus="speechocean762", **spoken),
        *crowd(20, 0, "male", "20s", **spoken),
        *crowd(15, 9, "female", "60+", "20s", **spoken),
        *crowd(14, 1, "male", "60+", "20s", **spoken),
        *crowd(4, 0, "male", "40s", language=language and "ko"),
        failed("secret reason"),
    ]


def result(*, per_speaker=False, model="tiny-1", outcomes=None):
    head = {"model": model, "manifest": "m.tsv", "split": "test", "band": "full", "limit": None}
    measured = assemble(people() if outcomes is None else outcomes, CLASSES)
    return {**head, "per_speaker": per_speaker, **measured, "shortcut": None}


PROVENANCE = {
    "command": "python -m train.any --data /home/secret/shards --seed 7 --note=~/secret/x.tsv",
    "commit": "abc1234",
    "seed": 7,
    "data": {"speechocean762": "CC-BY-4.0", "commonvoice61": "CC0-1.0"},
    "dev_f1": {"gender": 0.9123, "age_group": 0.5},
    "settings": {"balance": 0.25, "teacher": "/home/secret/runs/teacher.pt", "layers": [1, 2]},
}


def write_model(path, model_id="tiny-1", provenance=PROVENANCE):
    """The smallest graph that has a student's inputs, outputs and metadata."""
    nodes, weights = [helper.make_node("Abs", ["samples"], ["heard"])], []
    for task, names in NAMES.items():
        weight = np.zeros((BLOCK, len(names)), np.float32)
        weights.append(numpy_helper.from_array(weight, f"w_{task}"))
        nodes.append(helper.make_node("MatMul", ["heard", f"w_{task}"], [task]))
    nodes.append(helper.make_node("Identity", ["state"], ["state_out"]))

    def info(name, width=None, kind=TensorProto.FLOAT):
        return helper.make_tensor_value_info(name, kind, ["B", width] if width else ["B"])

    given = [info("samples", BLOCK), info("valid", kind=TensorProto.INT64), info("state", STATE)]
    made = [*(info(task, len(names)) for task, names in NAMES.items()), info("state_out", STATE)]
    graph = helper.make_graph(nodes, "tiny", given, made, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rule = {"min_speech_seconds": 1.5, "min_confidence": 0.625}
    metadata = {
        "contract": 1,
        "model_id": model_id,
        "sample_rate": 8000,
        "block": BLOCK,
        "state_size": STATE,
        "labels": {**NAMES, "parent": DEFAULT_TREE.parent},
        "calibration": {t: {"speech_seconds": [1.0], "temperature": [1.0]} for t in NAMES},
        "decision": dict.fromkeys(NAMES, rule),
        "student": {
            "encoder": {
                "channels": 99,
                "causal": True,
                "dilations": [1, 2],
                "global_context": False,
            },
            "tree": DEFAULT_TREE.to_dict(),
        },
        "provenance": provenance,
    }
    model.metadata_props.add(key="voicecohort", value=json.dumps(metadata))
    onnx.save(model, path)


PROBE = {
    "utterances": 89,
    "corpus_probe": [
        {
            "band": "child",
            "speakers": {"speechocean762": 8},
            "reason": "corpora with 5 speakers or more: 1, needs 2",
            **dict.fromkeys(("chance", "accuracy", "low", "high", "shuffled", "audio")),
        },
        {
            "band": "20s",
            "speakers": {"c": 20, "speechocean762": 20},
            "reason": "",
            "chance": 0.5,
            "accuracy": 0.871,
            "low": 0.8,
            "high": 0.93,
            "shuffled": 0.49,
            "audio": 0.61,
        },
    ],
    "within_corpus": [
        {
            "pair": ["child", "20s"],
            "corpus": "speechocean762",
            "speakers": {"child": 16, "20s": 20},
            "reason": "",
            "balanced_accuracy": {"value": 0.7777, "low": 0.7, "high": 0.83},
            "auc": {"value": 0.81, "low": 0.75, "high": 0.9},
        }
    ],
    "reading": "How to read the probe.",
}
COST = {
    "max_calls": 321,
    "bound_ms": 50.0,
    "cpu_ms_per_call_s": {"total": 1.2345},
    "device": "a CPU, 2 cores",
}


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


def write(folder, *roles, pictures=True):
    """Exit status and text of the card made from the files of these roles."""
    words = ["--model", str(folder / "tiny.onnx"), "--out", str(folder / "CARD.md")]
    for role in ("accuracy", *roles):
        words += [f"--{role}", str(folder / f"{role}.json")]
    words += ["--pictures", str(folder / "pictures")] if pictures else []
    status = card.main(words)
    return status, (folder / "CARD.md").read_text() if status == 0 else ""


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


class TestFindings:
    def test_the_weak_group_and_what_it_is_taken_for(self, measured):
        said = " ".join(say.age_classes(measured[0]))
        assert said.startswith("**Senior voices** are missed more often than found: recall 0.000 ")
        assert "29 calls of 29 speakers. Most often they are taken for young (100%)." in said
        assert "Child" not in said

    def test_no_weak_group_is_no_claim(self):
        good = result(outcomes=crowd(9, 1, "male", "20s") + crowd(9, 1, "male", "60+"))
        said = say.age_classes(good)
        assert said[0].startswith("Every age group is found in half of its calls.")
        assert said[1] == "Not in the test, so not measured: child, middle."

    def test_a_wide_interval_makes_it_probable_only(self, measured):
        wide = copy.deepcopy(measured[0])
        wide["age_group"]["per_class"]["senior"].update(recall=0.4, interval={"recall": [0.2, 0.6]})
        assert "**Senior voices** are probably missed" in say.age_classes(wide)[0]

    @pytest.mark.parametrize(
        ("recall", "interval", "word"),
        [
            (0.55, [0.4, 0.7], "cannot be told from guessing"),
            (0.8, [0.7, 0.9], "better than by guessing"),
            (0.3, [0.2, 0.4], "worse than by guessing"),
            (0.5, None, "too few"),
        ],
    )
    def test_children(self, measured, recall, interval, word):
        told = copy.deepcopy(measured[0])
        told["gender"]["child"].update(recall=recall, interval={"recall": interval})
        assert word in say.children(told)[0]

    def test_gap_between_genders(self, measured):
        said = say.women_and_men(measured[0])
        assert said[0].startswith("**Female, 60+**: gender is recognised less often than of male")
        assert "(29 speakers). The largest gap, 52.9 points; its interval, " in said[0]
        assert "leaves out zero." in said[0]
        assert len(said) == 1  # the gap of the 20s may be chance and is not the largest

    def test_a_gap_that_may_be_chance(self, measured):
        told = copy.deepcopy(measured[0])
        told["fairness"]["bands"]["60+"].update(gap_points=-52.9, interval=[-60.0, 2.0])
        (said,) = say.women_and_men(told)
        assert "its interval, -2.0 to 60.0, includes zero: it may be chance." in said

    def test_no_gap_without_bands(self):
        few = result(outcomes=crowd(3, 1, "male", "20s"))
        assert "the gap is unknown" in say.women_and_men(few)[0]

    def test_whole_calls(self, measured):
        single, calls = copy.deepcopy(measured)
        assert "no class differently" in say.whole_calls(single, calls)[0]
        calls["age_group"]["per_class"]["child"]["recall"] = 0.3
        (said,) = say.whole_calls(single, calls)
        assert said.startswith(
            "**Longer calls**: child (age group) is missed more often, recall 1.000"
        )
        assert "not given" in say.whole_calls(single, None)[0]

    def test_confidence(self, measured):
        told = copy.deepcopy(measured[0])
        for at in told["calibration"].values():
            at["interval"]["overconfidence"] = [-0.1, 0.1]
        assert "No task is over- or underconfident" in say.confidence(told)[0]
        told["calibration"]["gender"].update(
            overconfidence=0.2, interval={"overconfidence": [0.1, 0.3]}
        )
        assert say.confidence(told)[0].startswith("**Gender states more confidence than it earns**")

    def test_languages_with_enough_speakers(self, measured):
        (said,) = say.languages(measured[0])
        assert (
            "1 (en) with 20 speakers or more in the test. Of 1 other nothing can be said." in said
        )

    def test_cells_of_few_speakers_are_not_called_weak(self, measured):
        table = say.weakest_cells(measured[0])
        assert table.rows[0][:2] == ("gender", "female, 60+")
        assert all(int(row[3]) >= 5 for row in table.rows)


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
