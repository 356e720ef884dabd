"""Which model a call takes, keeps and gives back, by a clock that the test turns."""

import asyncio
import hashlib
import threading

import numpy as np
import pytest
import structlog

from streamer.errors import ModelFileError
from streamer.inference.engine import Engine
from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel
from streamer.inference.registry import ModelFile, ModelRegistry, ServedModel
from streamer.observability.metrics import Metrics

WAIT = 20.0


class Shelf:
    """A source whose file the test exchanges."""

    def __init__(self, make_student):
        self._make_student = make_student
        self.content = "a"
        self.loads = []
        self.gate = threading.Event()
        self.gate.set()

    def digest(self):
        if isinstance(self.content, Exception):
            raise self.content
        return self.content

    def load(self):
        assert self.gate.wait(WAIT)
        self.loads.append(self.content)
        return self.served(self.content)

    def served(self, digest):
        student = self._make_student()
        student.digest = digest
        student.metadata = student.metadata.model_copy(update={"model_id": f"model-{digest}"})
        return ServedModel.of(Engine(student, lambda callback: callback()))


class Case:
    def __init__(self, make_student, keep_seconds):
        self.now = 100.0
        self.metrics = Metrics()
        self.shelf = Shelf(make_student)
        self.first = self.shelf.served("a")
        self.models = ModelRegistry(
            self.first,
            self.shelf,
            metrics=self.metrics,
            keep_seconds=keep_seconds,
            clock=lambda: self.now,
        )

    async def put(self, content):
        self.shelf.content = content
        await self.models.reload()
        return self.models.current

    def swaps(self, outcome):
        return self.metrics.registry.get_sample_value(
            "voicecohort_model_swaps_total", {"outcome": outcome}
        )

    def info(self):
        (family,) = (f for f in self.metrics.registry.collect() if f.name == "voicecohort_model")
        return [sample.labels["model_id"] for sample in family.samples]

    async def gone(self, model):
        async with asyncio.timeout(WAIT):
            while model.engine.alive:
                await asyncio.sleep(0.005)

    def digests(self):
        return [model.digest for model in self.models.loaded]


@pytest.fixture
def case(run_async, make_student):
    async def main(scenario, keep_seconds):
        case = Case(make_student, keep_seconds)
        try:
            with structlog.testing.capture_logs() as case.logs:
                await scenario(case)
        finally:
            await case.models.stop()
            case.first.engine.stop()

    return lambda scenario, keep_seconds=0.0: run_async(main(scenario, keep_seconds))


def test_new_calls_take_the_new_model_and_the_old_one_goes_with_its_last_call(case):
    async def scenario(c):
        c.models.acquire(c.first)
        c.models.acquire(c.first)
        second = await c.put("b")
        assert second is not c.first
        assert (c.swaps("changed"), c.info()) == (1, ["model-b"])
        c.models.acquire(second)
        c.models.retire()
        assert c.digests() == ["a", "b"]
        c.models.release(c.first)
        c.models.retire()
        assert c.models.by_digest("a") is c.first, "still has a call"
        assert c.first.engine.alive
        c.models.release(c.first)
        c.models.retire()
        assert c.digests() == ["b"]
        assert c.models.by_digest("a") is None
        await c.gone(c.first)
        (changed,) = [e for e in c.logs if e["event"] == "model_changed"]
        assert (changed["before"], changed["after"]) == ("model-a", "model-b")
        assert (changed["digest"], changed["calls_on_older"]) == ("b", 2)
        c.models.release(second)
        c.models.retire()
        assert c.digests() == ["b"], "the current one stays without calls"

    case(scenario)


def test_kept_for_calls_that_may_come_back(case):
    async def scenario(c):
        c.models.acquire(c.first)
        await c.put("b")
        c.now += 1000
        c.models.release(c.first)
        c.now += 59
        c.models.retire()
        assert c.models.by_digest("a") is c.first
        c.models.acquire(c.first)  # one came back
        c.now += 1000
        c.models.retire()
        assert c.models.by_digest("a") is c.first
        c.models.release(c.first)
        c.now += 59
        c.models.retire()
        assert c.models.by_digest("a") is c.first
        c.now += 2
        c.models.retire()
        assert c.models.by_digest("a") is None
        await c.gone(c.first)

    case(scenario, keep_seconds=60.0)


def test_model_without_calls_is_kept_from_the_swap_on(case):
    async def scenario(c):
        c.now += 1000
        await c.put("b")
        c.now += 59
        c.models.retire()
        assert c.digests() == ["a", "b"]
        c.now += 2
        c.models.retire()
        assert c.digests() == ["b"]

    case(scenario, keep_seconds=60.0)


def test_unchanged_file_is_a_no_op_that_says_so(case):
    async def scenario(c):
        assert await c.put("a") is c.first
        assert c.shelf.loads == []
        assert c.swaps("unchanged") == 1
        assert [e["event"] for e in c.logs] == ["model_unchanged"]

    case(scenario)


def test_what_cannot_be_served_keeps_the_old(case):
    async def scenario(c):
        c.shelf.load = lambda: (_ for _ in ()).throw(MemoryError())
        assert await c.put("b") is c.first
        assert await c.put(ModelFileError("model file m.onnx:\nnot found")) is c.first
        assert (c.swaps("failed"), c.swaps("changed"), c.info()) == (2, 0, ["model-a"])
        assert [(e["event"], e["model"], e["reason"]) for e in c.logs] == [
            ("model_reload_failed", "model-a", "MemoryError"),
            ("model_reload_failed", "model-a", "model file m.onnx: not found"),
        ]
        c.models.retire()
        assert c.digests() == ["a"]

    case(scenario)


def test_going_back_to_a_model_that_is_still_loaded_loads_nothing(case):
    async def scenario(c):
        c.models.acquire(c.first)
        second = await c.put("b")
        assert await c.put("a") is c.first
        assert c.shelf.loads == ["b"]
        c.models.retire()
        await c.gone(second)
        c.models.release(c.first)
        c.now += 1000
        c.models.retire()
        assert c.digests() == ["a"]
        assert c.first.engine.alive
        assert c.info() == ["model-a"]

    case(scenario)


def test_loading_holds_up_neither_the_loop_nor_other_calls(case):
    async def scenario(c):
        c.shelf.gate.clear()
        loading = asyncio.create_task(c.put("b"))
        again = asyncio.create_task(c.models.reload())
        for _ in range(20):
            await asyncio.sleep(0.005)
            assert c.models.current is c.first
        c.shelf.gate.set()
        await asyncio.gather(loading, again)
        assert c.shelf.loads == ["b"], "the second found it unchanged"
        assert (c.swaps("changed"), c.swaps("unchanged")) == (1, 1)

    case(scenario)


def test_how_far_behind_counts_every_engine(case):
    async def scenario(c):
        c.models.acquire(c.first)
        await c.put("b")
        student = c.first.engine.model
        student.gate.clear()
        stream, other = (c.first.engine.new_stream(lambda _: None) for _ in range(2))
        c.first.engine.submit(stream, np.ones(1280, np.int16))
        assert await asyncio.to_thread(student.stepping.wait, WAIT)
        c.first.engine.submit(other, np.ones(1280, np.int16))
        await asyncio.sleep(0.05)
        assert c.models.queue_seconds >= 0.05
        student.gate.set()
        c.models.release(c.first)

    case(scenario)


def test_server_without_a_file_keeps_what_it_has(run_async, make_student):
    async def scenario():
        models = ModelRegistry(ServedModel.of(Engine(make_student(), lambda callback: callback())))
        before = models.current
        await models.reload()
        assert models.current is before
        await models.stop()
        assert not before.engine.alive

    run_async(scenario())


# --- files ---


def engine_of(student):
    return Engine(student, lambda callback: callback())


def test_file_is_known_by_the_hash_of_its_content(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(CPU_MODEL.read_bytes())
    file = ModelFile(path, "cpu", 1, engine_of)
    served = file.load()
    wanted = hashlib.sha256(CPU_MODEL.read_bytes()).hexdigest()
    assert file.digest() == served.digest == served.engine.model.digest == wanted
    assert served.providers == ["CPUExecutionProvider"]
    path.write_bytes(DEFAULT_MODEL.read_bytes())
    assert file.digest() != served.digest
    path.unlink()
    with pytest.raises(ModelFileError, match="not found"):
        file.digest()
    served.close()
    assert not served.engine.alive
    assert served.engine.model._session is None, "its memory is freed"


def test_without_memory_for_the_largest_step_a_file_is_not_served(monkeypatch):
    def starved(_, calls):
        raise MemoryError(f"no room for {calls}")

    monkeypatch.setattr(OnnxModel, "warm_up", starved)
    with pytest.raises(ModelFileError, match="its first steps: no room for 32"):
        ModelFile(None, "cpu", 1, engine_of).load()


def test_shipped_file_is_that_which_suits_the_provider():
    file = ModelFile(None, "cpu", 1, engine_of)
    assert file.digest() == hashlib.sha256(CPU_MODEL.read_bytes()).hexdigest()
