"""Steps on a GPU: on a CPU that is taken for one, and on a GPU where there is one."""

import ctypes

import numpy as np
import onnxruntime
import pytest

from streamer.errors import InferenceFailed, ModelFileError
from streamer.inference import cuda
from streamer.inference.batch import BatchRunner
from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel, model_file
from streamer.inference.self_test import self_test


class Pretended:
    """A device whose memory is the host's; counts what is copied."""

    kind = "cpu"
    name = "pretended"

    def __init__(self):
        self.copied = {True: 0, False: 0}

    def buffer(self, shape, dtype):
        return np.zeros(shape, dtype)

    def copy(self, source, target, size, *, to_host):
        self.copied[to_host] += size
        ctypes.memmove(target, source, size)


def on_the_cpu(content, options, more):
    assert more == {"enable_cuda_graph": "1"}
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


@pytest.fixture
def pretended(monkeypatch):
    """The student that a GPU is given, on a device that is none."""
    device = Pretended()
    monkeypatch.setattr(cuda, "find", lambda choice: None if choice == "cpu" else device)
    monkeypatch.setattr(cuda, "_open", on_the_cpu)
    student = OnnxModel(provider="cuda")
    yield student, device
    student.close()


@pytest.fixture(params=["pretended", "gpu"])
def on_a_gpu(request):
    """Pretended, and in earnest."""
    if request.param == "pretended":
        yield request.getfixturevalue("pretended")[0]
        return
    try:
        found = cuda.find("cuda")
    except ModelFileError as error:
        pytest.skip(f"NOT TESTED on a GPU: {error}")
    student = OnnxModel(provider="cuda")
    assert student.device == found.name
    assert student.providers[0] == cuda.PROVIDER
    yield student
    student.close()


@pytest.fixture
def float32():
    """The same file on a CPU."""
    student = OnnxModel(DEFAULT_MODEL, provider="cpu")
    yield student
    student.close()


def calls(meta, count, seed=4):
    """A block and fresh memory each."""
    noise = np.random.default_rng(seed)
    blocks = [noise.integers(-9000, 9000, meta.block).astype(np.int16) for _ in range(count)]
    return [(block, meta.fresh()) for block in blocks]


def test_a_gpu_takes_rows_in_powers_of_two(on_a_gpu):
    assert [on_a_gpu.padded_size(n) for n in (1, 2, 3, 4, 5, 32, 33)] == [1, 2, 4, 4, 8, 32, 64]


def test_warming_up_makes_every_step_once(pretended, monkeypatch):
    student, _ = pretended
    sizes = []
    run = cuda.Buckets.run
    monkeypatch.setattr(
        cuda.Buckets, "run", lambda self, *a: (sizes.append(a[2]), run(self, *a))[1]
    )
    student.warm_up(20)
    assert sizes == [1, 2, 4, 8, 16, 32]


def test_a_batch_on_a_gpu_says_what_it_says_elsewhere(on_a_gpu, float32):
    meta = float32.metadata
    mine, theirs = calls(meta, 5), calls(meta, 5)
    here, there = BatchRunner(float32, 8), BatchRunner(on_a_gpu, 8)
    for size in (5, 3, 5, 1):
        said, same = here.run(mine[:size]), there.run(theirs[:size])
        for row in range(size):
            for task, likewise in zip(said[row][0], same[row][0], strict=True):
                np.testing.assert_allclose(task, likewise, rtol=0, atol=1e-5)
            np.testing.assert_allclose(said[row][1].state, same[row][1].state, rtol=1e-3, atol=1e-4)
            mine[row], theirs[row] = (mine[row][0], said[row][1]), (theirs[row][0], same[row][1])


def test_steps_say_the_same_after_those_of_other_shapes(on_a_gpu, float32):
    """Compiled code of a shape must outlive that of the next ones."""
    meta = float32.metadata
    noise = np.random.default_rng(5)
    feeds = {}
    for rows in (1, 2, 4, 8, 16, 32, 64):
        samples = (0.1 * noise.standard_normal((rows, meta.block))).astype(np.float32)
        feeds[rows] = samples, np.full(rows, meta.block), meta.fresh(rows)
    on_a_gpu.warm_up(64)
    for _ in range(3):
        for feed in feeds.values():
            said, memory = on_a_gpu.step(*feed)
            wanted, same = float32.step(*feed)
            for one, other in zip(said, wanted, strict=True):
                np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)
            np.testing.assert_allclose(memory.state, same.state, rtol=1e-3, atol=1e-4)


def test_a_student_on_a_gpu_is_fit_to_be_served(on_a_gpu):
    self_test(on_a_gpu)


def test_only_what_a_step_needs_is_copied(pretended):
    student, device = pretended
    meta = student.metadata
    BatchRunner(student, 8).run(calls(meta, 3))
    assert device.copied[False] == 4 * (4 * meta.block + 8 + meta.memory_bytes)
    assert device.copied[True] == 4 * (4 * (2 + 4 + 7) + meta.memory_bytes)


def test_a_batch_that_is_halved_keeps_what_its_first_half_remembers(pretended, monkeypatch):
    """Both halves are steps of as many rows, whose answers lie in the same place."""
    student, _ = pretended
    meta = student.metadata
    alone = [BatchRunner(student, 4).run([row])[0][1] for row in calls(meta, 4)]
    step = student.step

    def poisoned(samples, valid, memory):
        if len(samples) == 4:
            raise ArithmeticError("marker")
        return step(samples, valid, memory)

    monkeypatch.setattr(student, "step", poisoned)
    answers = BatchRunner(student, 4).run(calls(meta, 4))
    assert not any(isinstance(answer, InferenceFailed) for answer in answers)
    for (_, memory), same in zip(answers, alone, strict=True):
        np.testing.assert_allclose(memory.state, same.state, rtol=1e-3, atol=1e-4)


def test_arrays_of_another_shape_or_type_are_refused(pretended):
    """What is copied is bytes: of the wrong array they would be somebody else's memory."""
    student, _ = pretended
    meta = student.metadata
    with pytest.raises(ValueError, match=r"^state: float32 \(1, 5\), not \[1, "):
        student.step(
            np.zeros((1, meta.block), np.float32),
            np.zeros(1, np.int64),
            meta.fresh(1)._replace(state=np.zeros((1, 5), np.float32)),
        )
    with pytest.raises(ValueError, match=r"^samples: float64 "):
        student.step(np.zeros((1, meta.block)), np.zeros(1, np.int64), meta.fresh(1))


def test_a_freed_student_frees_its_buckets(pretended):
    student, _ = pretended
    student.warm_up(2)
    student.close()
    assert student._buckets is None


@pytest.mark.usefixtures("pretended")
def test_a_student_that_is_no_graph_is_stepped_without_and_the_log_says_so_once(
    monkeypatch, capsys
):
    """Also one whose products in 8 bits have no kernel there."""
    tried = []

    def no_graphs(content, options, more):
        tried.append(more)
        if more:
            raise RuntimeError("nodes have not been partitioned\nto the GPU")
        return on_the_cpu(content, options, {"enable_cuda_graph": "1"})

    monkeypatch.setattr(cuda, "_open", no_graphs)
    student = OnnxModel(DEFAULT_MODEL, provider="cuda")
    student.warm_up(2)
    assert tried == [{"enable_cuda_graph": "1"}, {}, {}, {}]
    told = capsys.readouterr().out
    assert told.count("no_cuda_graph") == 1
    assert "nodes have not been partitioned" in told
    student.close()


@pytest.mark.usefixtures("pretended")
def test_a_file_that_the_gpu_cannot_load_is_refused(monkeypatch):
    def none(*_):
        raise RuntimeError("ONNX Runtime cannot use the GPU, for a reason that it has printed")

    monkeypatch.setattr(cuda, "_open", none)
    with pytest.raises(ModelFileError, match=r"student.onnx: cannot be loaded: ONNX Runtime ca"):
        OnnxModel(DEFAULT_MODEL, provider="cuda")


# --- which device ---


def test_without_a_choice_a_cpu_gets_the_student_in_8_bits(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    assert model_file(None, "auto") == CPU_MODEL
    student = OnnxModel(provider="auto")
    assert (student.providers, student.device) == (["CPUExecutionProvider"], "CPU")


def test_without_a_choice_a_gpu_gets_the_student_in_float32(pretended):
    student, device = pretended
    assert model_file(None, "auto") == DEFAULT_MODEL
    assert student.device == device.name


def test_cuda_is_refused_where_onnxruntime_has_none(monkeypatch):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(ModelFileError, match=r"^provider cuda: this onnxruntime offers only \["):
        OnnxModel(DEFAULT_MODEL, provider="cuda")


@pytest.fixture
def no_gpu(monkeypatch):
    """An onnxruntime for GPUs on a machine without."""
    both = [cuda.PROVIDER, "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    def none():
        raise RuntimeError("there is no GPU")

    monkeypatch.setattr(cuda, "_first_gpu", none)
    cuda._warn_unusable.cache_clear()


@pytest.mark.usefixtures("no_gpu")
def test_cuda_is_refused_where_there_is_no_gpu():
    with pytest.raises(ModelFileError, match=r"^provider cuda: there is no GPU$"):
        OnnxModel(DEFAULT_MODEL, provider="cuda")


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_a_cpu_does_and_the_log_says_so_once(capsys):
    assert [cuda.find("auto"), cuda.find("auto"), cuda.find("cpu")] == [None] * 3
    assert model_file(None, "auto") == CPU_MODEL
    assert capsys.readouterr().out.count("gpu_unusable") == 1
