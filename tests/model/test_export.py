import copy
import json

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx.numpy_helper import to_array

from model.classifier import BLOCK, SpeakerClassifier, StudentConfig
from model.encoders.ecapa import EcapaConfig
from model.export import CONTRACT, METADATA_KEY, export
from model.labels import TASKS


@pytest.fixture(scope="module")
def exported(compact, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "student.onnx"
    model_id = export(compact, path, calibration={"calibration": {}}, provenance={"seed": 1})
    return path, model_id


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_file_streams_to_the_offline_posterior(exported, compact, batch):
    torch.manual_seed(batch)
    samples = torch.randn(batch, 6 * BLOCK) * 0.1
    lengths = torch.randint(160, 6 * BLOCK, (batch,))
    with torch.no_grad():
        offline = compact(samples, lengths)
    run = session(exported[0])
    state = np.zeros((batch, compact.state_size), np.float32)
    for k in range(6):
        valid = (lengths - k * BLOCK).clamp(0, BLOCK).numpy()
        block = samples[:, k * BLOCK : (k + 1) * BLOCK].numpy()
        *posteriors, state = run.run(None, {"samples": block, "valid": valid, "state": state})
        mask = offline.block_mask[:, k].numpy()
        for task, posterior in zip(TASKS, posteriors, strict=True):
            expected = offline.logits[task][:, k].softmax(dim=1).numpy()
            np.testing.assert_allclose(posterior[mask], expected[mask], atol=1e-4)


def test_contract(exported, compact):
    path, model_id = exported
    inputs = {node.name: (node.type, node.shape[1:]) for node in session(path).get_inputs()}
    outputs = {node.name: node.shape[1:] for node in session(path).get_outputs()}
    assert inputs == {
        "samples": ("tensor(float)", [BLOCK]),
        "valid": ("tensor(int64)", []),
        "state": ("tensor(float)", [compact.state_size]),
    }
    assert outputs == {
        "gender": [2],
        "age_group": [4],
        "age_band": [7],
        "state_out": [compact.state_size],
    }
    metadata = json.loads(session(path).get_modelmeta().custom_metadata_map[METADATA_KEY])
    assert metadata["contract"] == CONTRACT
    assert metadata["model_id"] == model_id
    assert metadata["block"] == BLOCK
    assert metadata["labels"]["age_group"] == ["child", "young", "middle", "senior"]
    assert metadata["provenance"] == {"seed": 1}
    assert StudentConfig.from_dict(metadata["student"]) == compact.config
    content = path.read_bytes()
    assert b"/model/" not in content
    assert b"site-packages" not in content


def test_same_weights_same_bytes_and_other_weights_another_id(exported, compact, tmp_path):
    path, model_id = exported
    other = copy.deepcopy(compact)
    with torch.no_grad():
        other.heads.classify["gender"].bias[0] += 0.01
    assert export(other, tmp_path / "other.onnx", calibration={}, provenance={}) != model_id
    # One export shows both, as each takes ten seconds: but for what was changed nothing differs.
    graphs = [onnx.load(name).graph for name in (path, tmp_path / "other.onnx")]
    one, another = ({tensor.name: tensor for tensor in graph.initializer} for graph in graphs)
    assert list(one) == list(another)
    changed = [name for name in one if one[name] != another[name]]
    difference = [to_array(another[name]) - to_array(one[name]) for name in changed]
    np.testing.assert_allclose(difference, [[0.01, 0.0]], atol=1e-6)
    for graph in graphs:
        del graph.initializer[:]
    assert graphs[0] == graphs[1]


def test_what_is_constant_is_folded_away(exported):
    graph = onnx.load(exported[0]).graph
    operators = [node.op_type for node in graph.node]
    assert not {"BatchNormalization", "Trainer", "If"} & set(operators)
    constants = {tensor.name for tensor in graph.initializer}
    assert all(set(node.input) - constants - {""} for node in graph.node)
    assert len(operators) < 215  # each costs microseconds of every step


def test_the_state_is_taken_apart_and_put_together_once(exported):
    graph = onnx.load(exported[0]).graph
    assert [node.input[0] for node in graph.node if node.op_type == "Split"] == ["state"]
    join = next(node for node in graph.node if node.output[0] == "state_out")
    made = {node.output[0]: node.op_type for node in graph.node}
    assert join.op_type == "Concat"
    assert not {"Concat", "Split"} & {made[name] for name in join.input}


@pytest.mark.parametrize(
    ("causal", "factor", "message"), [(False, 1.0, "causal=False"), (True, 1e4, "attention scores")]
)
def test_what_cannot_be_served_is_refused(tmp_path, causal, factor, message):
    encoder = EcapaConfig(channels=16, causal=causal)
    student = SpeakerClassifier(StudentConfig(encoder=encoder)).eval()
    with torch.no_grad():
        student.encoder.pooling.score.weight.mul_(factor)
    with pytest.raises(ValueError, match=message):
        export(student, tmp_path / "x.onnx", calibration={}, provenance={})
