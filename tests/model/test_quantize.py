"""A student in 8 bits against the float32 one that it was made from."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from model.encoders.ecapa import EcapaConfig
from model.encoders.resnet import ResNetConfig
from model.export import METADATA_KEY, export
from model.onnx_passes.activation_ranges import observe
from model.onnx_passes.graph import Graph, axis_of
from model.quantize import quantised
from streamer.inference.metadata import TASKS
from streamer.inference.model import OnnxModel as Served

SHAPE = EcapaConfig(channels=128, dilations=(1, 2), aggregated=128, attention=128)
CONFIG = StudentConfig(encoder=SHAPE)
CALIBRATION = {
    "calibration": {t: {"speech_seconds": [1.0], "temperature": [1.0]} for t in TASKS},
    "decision": {t: {"min_speech_seconds": 0.0, "min_confidence": 0.0} for t in TASKS},
}


def blocks(count, batch, seed=0, level=0.1):
    random = np.random.default_rng(seed)
    for _ in range(count):
        samples = (random.standard_normal((batch, BLOCK)) * level).astype(np.float32)
        yield {"samples": samples, "valid": np.full(batch, BLOCK)}


def exported(config, folder):
    """A float32 student of random weights, and as a file."""
    torch.manual_seed(1)
    path = folder / "student.onnx"
    export(SpeakerClassifier(config).eval(), path, calibration=CALIBRATION, provenance={})
    return onnx.load(path)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Paths of a float32 student of random weights and of its 8-bit form."""
    folder = tmp_path_factory.mktemp("quantise")
    model = exported(CONFIG, folder)
    small = quantised(model, observe(model, blocks(20, 4)), made_by={"seed": 7})
    (folder / "small.onnx").write_bytes(small.SerializeToString(deterministic=True))
    return folder / "student.onnx", folder / "small.onnx"


def saved(model, folder):
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path


def stream(path, feeds):
    student = Served(path, provider="cpu")
    answers, memory = [], None
    for feed in feeds:
        if memory is None:
            memory = student.metadata.fresh(len(feed["samples"]))
        posteriors, memory = student.step(feed["samples"], feed["valid"], memory)
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
    assert kinds.count("QLinearConv") == 4  # expansion and convolution, twice
    assert not {"Conv", "DynamicQuantizeLinear"} & set(kinds)
    assert pair[1].stat().st_size < 0.75 * pair[0].stat().st_size


HASHED = """
import hashlib, sys
import numpy as np, onnx
from model.onnx_passes.activation_ranges import observe
from model.quantize import quantised
model = onnx.load(sys.argv[1])
feeds = [{"samples": np.full((1, 2560), 0.1, np.float32), "valid": np.full(1, 2560)}]
small = quantised(model, observe(model, feeds))
print(hashlib.sha256(small.SerializeToString(deterministic=True)).hexdigest())
"""


def test_the_same_student_gives_the_same_file_in_every_process(pair):
    found = {
        subprocess.run(
            [sys.executable, "-c", HASHED, str(pair[0])],
            env=os.environ | {"PYTHONHASHSEED": str(seed)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2, 3)
    }
    assert len(found) == 1


def test_frames_are_copied_in_8_bits(pair):
    graph = Graph(onnx.load(pair[1]))
    for node in graph.nodes:
        if node.op_type == "QuantizeLinear":
            copied = graph.maker(node.input[0])
            copies = copied is not None and copied.op_type in {"Concat", "Slice"}
            copies = copies and axis_of(copied) != -1  # a call's statistics: one node less
            assert not copies or len(graph.readers(node.input[0])) > 1  # the state wants it too


def test_nothing_is_quantised_twice(pair):
    """What the next block and the aggregation read is quantised once, for both."""
    graph = Graph(onnx.load(pair[1]))
    read = [node.input[0] for node in graph.nodes if node.op_type == "QuantizeLinear"]
    assert len(read) == len(set(read))
    join = next(
        node
        for node in graph.nodes
        if node.op_type == "Concat" and len(node.input) == 2 and node.output[0].endswith("_q")
    )
    makers = [graph.maker(name) for name in join.input]
    assert {maker.op_type for maker in makers} == {"QuantizeLinear"}
    assert "QLinearConv" in {node.op_type for node in graph.readers(join.input[0])}


def test_what_stays_in_the_state_has_the_same_units(pair):
    served = [Served(path, provider="cpu") for path in pair]
    memories = [student.metadata.fresh(4) for student in served]
    for feed in blocks(6, 4, seed=8):
        for index, student in enumerate(served):
            _, memories[index] = student.step(feed["samples"], feed["valid"], memories[index])
    exact, small = (memory.state for memory in memories)
    temporal = [block.temporal.state_size for block in SpeakerClassifier(CONFIG).encoder.blocks]
    means = SHAPE.channels
    before = exact.shape[1] - sum(temporal) - len(temporal) * means - 3 * SHAPE.aggregated
    kept, cached, at = [exact[:, :before]], [], before
    for size in temporal:
        cached.append(exact[:, at : at + size])
        kept.append(exact[:, at + size : at + size + means])
        at += size + means
    exact = np.concatenate([*kept, exact[:, at:]], axis=1)
    assert exact.shape == small.shape
    scale = np.abs(exact).max()
    assert np.abs(exact - small).max() < 0.05 * scale
    assert np.abs(exact - small).mean() < 0.005 * scale
    # A cache holds levels: so many times its scale is what the other keeps.
    levels = memories[1].cache
    for floats, part in zip(
        cached, np.split(levels, np.cumsum(temporal)[:-1], axis=1), strict=True
    ):
        step = floats.sum() / part.sum()
        assert np.abs(floats - step * part).mean() < 0.01 * floats.max()


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


def test_clipping_moves_the_answers_further(pair, tmp_path):
    model = onnx.load(pair[0])
    ranges = observe(model, blocks(10, 4))
    exact, *others = (
        stream(pair[0], blocks(4, 4, seed=9)),
        *(
            stream(
                saved(quantised(model, ranges, quantile=quantile), tmp_path), blocks(4, 4, seed=9)
            )
            for quantile in (1.0, 0.7)
        ),
    )
    whole, clipped = (np.abs(exact - other).mean() for other in others)
    assert whole < clipped


def test_a_graph_without_products(pair):
    model = onnx.load(pair[1])  # has been quantised: nothing is left
    with pytest.raises(ValueError, match="no product"):
        quantised(model, observe(model, []))


def test_a_resnet_is_quantised_too(tmp_path):
    """Its convolutions are products; no part of its state is bytes as soon as it is read."""
    encoder = ResNetConfig(width=16, blocks=(1, 1, 1, 1))
    model = exported(StudentConfig(encoder=encoder), tmp_path)
    small = quantised(model, observe(model, blocks(4, 2)))
    exact = stream(tmp_path / "student.onnx", blocks(4, 2, seed=5))
    assert np.abs(exact - stream(saved(small, tmp_path), blocks(4, 2, seed=5))).max() < 0.1
