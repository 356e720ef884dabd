"""A student in 8 bits against the float32 one that it was made from."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from model.ecapa import EcapaConfig
from model.export import METADATA_KEY, export
from model.graph import Graph
from model.quantise import observe, quantised
from model.student import BLOCK, Student, StudentConfig
from streamer.student import TASKS
from streamer.student import Student as Served

SHAPE = EcapaConfig(channels=128, dilations=(1, 2), aggregated=128, attention=128)
CALIBRATION = {
    "calibration": {t: {"speech_seconds": [1.0], "temperature": [1.0]} for t in TASKS},
    "decision": {t: {"min_speech_seconds": 0.0, "min_confidence": 0.0} for t in TASKS},
}


def blocks(count, batch, seed=0, level=0.1):
    random = np.random.default_rng(seed)
    for _ in range(count):
        samples = (random.standard_normal((batch, BLOCK)) * level).astype(np.float32)
        yield {"samples": samples, "valid": np.full(batch, BLOCK)}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Paths of a float32 student of random weights and of its 8-bit form."""
    folder = tmp_path_factory.mktemp("quantise")
    torch.manual_seed(1)
    export(
        Student(StudentConfig(encoder=SHAPE)).eval(),
        folder / "student.onnx",
        calibration=CALIBRATION,
        provenance={},
    )
    model = onnx.load(folder / "student.onnx")
    small = quantised(model, observe(model, blocks(20, 4)), made_by={"seed": 7})
    (folder / "small.onnx").write_bytes(small.SerializeToString(deterministic=True))
    return folder / "student.onnx", folder / "small.onnx"


def stream(path, feeds):
    student = Served(path, provider="cpu")
    answers, state = [], None
    for feed in feeds:
        if state is None:
            state = np.zeros((len(feed["samples"]), student.metadata.state_size), np.float32)
        posteriors, state = student.step(feed["samples"], feed["valid"], state)
        answers.append(np.concatenate(posteriors, axis=1))
    return np.stack(answers)


def test_answers_are_close(pair):
    exact, small = (stream(path, blocks(12, 4, seed=5)) for path in pair)
    assert np.abs(exact - small).max() < 0.03
    assert np.abs(exact - small).max() > 0.0


def test_the_products_run_in_integers(pair):
    kinds = [node.op_type for node in onnx.load(pair[1]).graph.node]
    # stem, one a block, aggregation, two of the attention, embedding
    assert kinds.count("MatMulIntegerToFloat") == 7
    assert kinds.count("QGemm") == kinds.count("QLinearConv") == 2  # expansion and convolution
    assert not {"Conv", "DynamicQuantizeLinear"} & set(kinds)
    assert pair[1].stat().st_size < 0.75 * pair[0].stat().st_size


def test_frames_are_copied_in_8_bits(pair):
    graph = Graph(onnx.load(pair[1]))
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            copied = graph.maker(node.input[0])
            copies = copied is not None and copied.op_type in {"Concat", "Slice"}
            assert not copies or len(graph.readers(node.input[0])) > 1  # the state wants it too


def test_the_state_has_the_same_units(pair):
    """A cache holds what was quantised, not its levels."""
    exact, small = (Served(path, provider="cpu") for path in pair)
    states = [np.zeros((4, exact.metadata.state_size), np.float32)] * 2
    for feed in blocks(6, 4, seed=8):
        for index, student in enumerate((exact, small)):
            _, states[index] = student.step(feed["samples"], feed["valid"], states[index])
    scale = np.abs(states[0]).max()
    assert np.abs(states[0] - states[1]).max() < 0.05 * scale
    assert np.abs(states[0] - states[1]).mean() < 0.005 * scale


def test_a_call_does_not_depend_on_the_calls_beside_it(pair):
    quiet = list(blocks(8, 1, seed=3, level=0.01))
    loud = blocks(8, 1, seed=4, level=0.9)
    together = [
        {name: np.concatenate([a[name], b[name]]) for name in a}
        for a, b in zip(quiet, loud, strict=True)
    ]
    assert np.abs(stream(pair[1], quiet)[:, 0] - stream(pair[1], together)[:, 0]).max() < 1e-5


def test_the_file_says_what_it_is(pair):
    exact, small = (Served(path, provider="cpu").metadata for path in pair)
    assert small.model_id != exact.model_id
    assert "-int8-" in small.model_id
    entry = next(p.value for p in onnx.load(pair[1]).metadata_props if p.key == METADATA_KEY)
    assert json.loads(entry)["provenance"]["quantised"] == {"from": exact.model_id, "seed": 7}
    assert small.labels == exact.labels


def test_clipping_moves_the_answers_further(pair):
    model = onnx.load(pair[0])
    ranges = observe(model, blocks(10, 4))
    state = np.zeros((4, Served(pair[0]).metadata.state_size), np.float32)
    feed = {**next(blocks(1, 4, seed=9)), "state": state}
    answers = []
    for candidate in (
        model,
        quantised(model, ranges, quantile=1.0),
        quantised(model, ranges, quantile=0.7),
    ):
        session = onnxruntime.InferenceSession(candidate.SerializeToString())
        answers.append(session.run(["state_out"], feed)[0])
    exact, whole, clipped = answers
    assert np.abs(exact - whole).mean() < np.abs(exact - clipped).mean()


def test_a_graph_without_products(pair):
    model = onnx.load(pair[1])  # has been quantised: nothing is left
    with pytest.raises(ValueError, match="no product"):
        quantised(model, observe(model, []))
