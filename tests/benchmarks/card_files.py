"""Files of a student that never was: what the tests of the model card read."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))  # import each other by name

import card
from accuracy_outcomes import CLASSES, NAMES, failed, outcome
from scoring.result import assemble

from model.labels import DEFAULT_TREE

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


def write(folder, *roles, pictures=True):
    """Exit status and text of the card made from the files of these roles."""
    words = ["--model", str(folder / "tiny.onnx"), "--out", str(folder / "CARD.md")]
    for role in ("accuracy", *roles):
        words += [f"--{role}", str(folder / f"{role}.json")]
    words += ["--pictures", str(folder / "pictures")] if pictures else []
    status = card.main(words)
    return status, (folder / "CARD.md").read_text() if status == 0 else ""
