import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import ModelFileError
from streamer.inference.metadata import CONTRACT, METADATA_KEY, TASKS
from streamer.inference.model import DEFAULT_MODEL, OnnxModel


@pytest.fixture(scope="module")
def content():
    return DEFAULT_MODEL.read_bytes()


@pytest.fixture
def rewritten(content, tmp_path):
    """Write the shipped model after an edit."""

    def write(edit):
        model = onnx.load_from_string(content)
        edit(model)
        path = tmp_path / "rewritten.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


@pytest.fixture
def altered(rewritten):
    """Write the shipped model with another metadata entry; None removes it."""

    def write(change):
        def edit(model):
            (entry,) = model.metadata_props
            plain = change(json.loads(entry.value))
            if plain is None:
                del model.metadata_props[:]
            else:
                entry.value = plain if isinstance(plain, str) else json.dumps(plain)

        return rewritten(edit)

    return write


def error_of(path):
    with pytest.raises(ModelFileError) as caught:
        OnnxModel(path, provider="cpu")
    message = str(caught.value)
    assert message.startswith(f"model file {path}: ")
    assert "\n" not in message
    return message.removeprefix(f"model file {path}: ")


# --- the shipped file ---


def test_shipped_model_has_its_metadata(student):
    meta = student.metadata
    assert (meta.contract, meta.sample_rate, meta.block) == (CONTRACT, 8000, 2560)
    assert meta.block_seconds == 0.32
    assert meta.labels.gender == ("female", "male")
    assert len(meta.labels.parent) == len(meta.labels.age_band) > len(meta.labels.age_group)
    assert set(meta.calibration) == set(meta.decision) == set(TASKS)
    assert meta.labels.of("age_group") is meta.labels.age_group
    assert student.providers == ["CPUExecutionProvider"]


def test_step_returns_probabilities_and_a_memory(student):
    meta = student.metadata
    rng = np.random.default_rng(0)
    samples = rng.uniform(-0.5, 0.5, (3, meta.block)).astype(np.float32)
    posteriors, memory = student.step(samples, np.full(3, meta.block), meta.fresh(3))
    assert memory.state.shape == (3, meta.state_size)
    assert memory.cache.shape == (3, meta.cache_size)
    assert memory.state.any(axis=1).all()
    for task, posterior in zip(TASKS, posteriors, strict=True):
        assert posterior.shape == (3, len(meta.labels.of(task)))
        assert (posterior >= 0).all()
        np.testing.assert_allclose(posterior.sum(axis=1), 1.0, atol=1e-5)


def test_rows_of_a_batch_are_independent(student):
    meta = student.metadata
    rng = np.random.default_rng(1)
    samples = rng.uniform(-0.5, 0.5, (4, 5, meta.block)).astype(np.float32)
    valid = np.array([meta.block, meta.block, 640, meta.block])
    memory = meta.fresh(5)
    alone = [meta.fresh(1) for _ in range(5)]
    for step in range(4):
        together, memory = student.step(samples[step], np.full(5, valid[step]), memory)
        for row in range(5):
            posteriors, alone[row] = student.step(
                samples[step, row : row + 1], valid[step : step + 1], alone[row]
            )
            for one, many in zip(posteriors, together, strict=True):
                np.testing.assert_allclose(one[0], many[row], rtol=0, atol=1e-4)


def test_memory_changes_the_posteriors(student):
    """The same block after other speech has other posteriors."""
    meta = student.metadata
    rng = np.random.default_rng(2)
    samples = rng.uniform(-0.5, 0.5, (2, 1, meta.block)).astype(np.float32)
    fresh = meta.fresh(1)
    full = np.array([meta.block])
    after_other = student.step(samples[0], full, fresh)[1]
    cold, _ = student.step(samples[1], full, fresh)
    warm, _ = student.step(samples[1], full, after_other)
    assert np.abs(cold[2] - warm[2]).max() > 0


@given(st.integers(1, 1024))
def test_batches_on_a_cpu_are_not_padded(student, size):
    assert student.padded_size(size) == size


@pytest.mark.parametrize(
    ("max_size", "sizes"),
    [(1, [1]), (2, [1, 2]), (20, [1, 2, 4, 8, 16, 20]), (32, [1, 2, 4, 8, 16, 32])],
)
def test_warm_up_reaches_the_largest_batch(student, monkeypatch, max_size, sizes):
    stepped = []

    def step(samples, *_):
        stepped.append(len(samples))

    monkeypatch.setattr(student, "step", step)
    student.warm_up(max_size)
    assert stepped == sizes


GROWTH = """
import mmap
import sys
from pathlib import Path
import numpy as np
from streamer.inference.model import OnnxModel

def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * mmap.PAGESIZE // 1024

model = OnnxModel(provider="cpu")
meta = model.metadata
model.warm_up(int(sys.argv[1]))
before = resident()
for rows in (2, 9, 17, 32, 5, 31):
    silence = model.buffer((rows, meta.block), np.float32)
    model.step(silence, np.full(rows, meta.block), meta.fresh(rows))
print(resident() - before)
"""


def test_warm_up_allocates_the_memory_of_all_steps():
    """No later step makes the process larger."""
    grown_kb = {}
    for max_size in (1, 32):
        command = [sys.executable, "-c", GROWTH, str(max_size)]
        grown_kb[max_size] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert grown_kb[32] < 1000
    assert grown_kb[1] > 3000, "growth without warm-up must be visible to this test"


def test_padding_does_not_count(student):
    """Only `valid` samples change the posteriors."""
    meta = student.metadata
    rng = np.random.default_rng(3)
    samples = rng.uniform(-0.5, 0.5, (2, meta.block)).astype(np.float32)
    samples[1, :480] = samples[0, :480]
    posteriors, _ = student.step(samples, np.full(2, 480), meta.fresh(2))
    for posterior in posteriors:
        np.testing.assert_allclose(posterior[0], posterior[1], rtol=0, atol=1e-5)


# --- invalid files ---


def test_missing_file(tmp_path):
    assert error_of(tmp_path / "no.onnx") == "not found"
    assert error_of(tmp_path) == "not found"  # a folder


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000, -1000])
def test_truncated_file(content, tmp_path, size):
    path = tmp_path / "short.onnx"
    path.write_bytes(content[:size])
    assert error_of(path)


@pytest.mark.parametrize("junk", [b"not a model\n" * 99, b"\x00" * 5000, b"{}", b"RIFF\x00WAVE"])
def test_file_that_is_not_onnx(tmp_path, junk):
    path = tmp_path / "junk.onnx"
    path.write_bytes(junk)
    assert error_of(path)


def test_file_without_metadata(altered):
    message = error_of(altered(lambda _: None))
    assert message == f"no metadata {METADATA_KEY!r}; not a student"


@pytest.mark.parametrize("contract", [0, 2, "1", None])
def test_other_contract(altered, contract):
    message = f"contract {contract!r}, this server speaks 1"
    assert error_of(altered(lambda meta: meta | {"contract": contract})) == message
    assert error_of(altered(lambda _: {"contract": contract})) == message, "checked first"


def test_metadata_that_is_no_object(altered):
    assert error_of(altered(lambda _: [1, 2])).startswith("contract None,")


def test_metadata_that_is_not_json(altered):
    assert error_of(altered(lambda _: "{oh")).startswith("metadata is not JSON: ")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("state_size", {"state_size": 0}),
        ("sample_rate", {"sample_rate": 16000}),
        ("block", {"block": 80_000}),
        ("model_id", {"model_id": "two words"}),
        ("labels.age_group", {"labels": {"gender": ["f", "m"]}}),
        ("labels.gender", {"labels": {"gender": ["f"]}}),
        ("calibration", {"calibration": {}}),
        ("decision", {"decision": {}}),
        ("calibration.gender.temperature", {"calibration": {"gender": {"speech_seconds": [1]}}}),
    ],
)
def test_invalid_metadata_names_the_field(altered, field, change):
    message = error_of(altered(lambda meta: meta | change))
    assert message.startswith("metadata")
    assert field in message


@pytest.mark.parametrize(
    "change",
    [
        lambda meta: {"state_size": meta["state_size"] + 1},
        lambda meta: {"block": meta["block"] * 2},
        lambda meta: {"labels": meta["labels"] | {"gender": ["female", "male", "other"]}},
    ],
    ids=["state_size", "block", "labels"],
)
def test_graph_must_match_its_metadata(altered, change):
    assert error_of(altered(lambda meta: meta | change(meta))).startswith("shapes {")


def test_graph_with_another_input_name(rewritten):
    def rename(model):
        for node in model.graph.node:
            node.input[:] = ["pcm" if name == "samples" else name for name in node.input]
        model.graph.input[0].name = "pcm"

    assert error_of(rewritten(rename)).startswith("shapes {'pcm'")


def test_graph_with_a_fixed_batch_size(rewritten):
    def fix(model):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    assert error_of(rewritten(fix)).startswith("shapes ")
