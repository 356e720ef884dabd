"""What a model card is made of: the model file and the figures measured with it, checked to fit."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from load.gemm import optimised, products, silence
from scoring.tables import Result

from streamer.inference.metadata import METADATA_KEY, Metadata

NEEDED = ("model", "bootstrap", "speakers", "fairness", "per_cell", "calibration", "unmeasured")
"""Keys without which a result is no result, or of an accuracy.py before intervals."""
_ELSEWHERE = re.compile(r"^(?:[/~\\]|[A-Za-z]:[/\\]|\w+://)")


class Unusable(Exception):
    """A file of which no card can be made; one line, says which and why."""


@dataclass(frozen=True)
class ModelFile:
    """The student as its own file describes it.

    Attributes:
        name: of the file.
        metadata: the JSON in it.
        parameters: trained numbers.
        size: bytes of the file.
        mflop: millions of operations in matrix products per second of speech.
        small: model id of the 8-bit form that lies beside it, empty if there is none.
    """

    name: str
    metadata: dict[str, Any]
    parameters: int
    size: int
    mflop: float
    small: str

    @property
    def id(self) -> str:
        """The model id."""
        return str(self.metadata["model_id"])

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids under which this student may have been measured."""
        return tuple(filter(None, (self.id, self.small)))

    @property
    def provenance(self) -> dict[str, Any]:
        """What the file says of how it was made."""
        made: dict[str, Any] = self.metadata.get("provenance", {})
        return made


@dataclass(frozen=True)
class Source:
    """A file that the card was made from: its role, name and the first digits of its SHA-256."""

    role: str
    name: str
    digest: str


@dataclass(frozen=True)
class Inputs:
    """Everything that the card shows.

    Attributes:
        model: the student.
        single: result of accuracy.py, a call per utterance.
        calls: the same with a call per speaker, or None.
        clean: the same on another manifest, or None.
        probe: of train.probe, or None.
        voices: of implausible.py, or None.
        cost: of throughput.py, or None.
        sources: files read.
    """

    model: ModelFile
    single: Result
    calls: Result | None
    clean: Result | None
    probe: Result | None
    voices: Result | None
    cost: Result | None
    sources: tuple[Source, ...]


def public(text: str) -> str:
    """The text with every word that names a place on some machine reduced to its last part."""
    return " ".join(_public_word(word) for word in text.split(" "))


def _public_word(word: str) -> str:
    name, equals, value = word.rpartition("=")
    bare = value.strip("'\"`,;")
    if not _ELSEWHERE.match(bare):
        return word
    plain = PureWindowsPath(bare) if "\\" in bare else PurePosixPath(bare)
    return f"{name}{equals}{plain.name}"


def read_metadata(path: Path) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """A student's graph and metadata; raises Unusable for a file that is none."""
    try:
        graph = onnx.load(path)
    except OSError as error:
        raise Unusable(f"--model {path}: {error.strerror}") from error
    except DecodeError as error:
        raise Unusable(f"--model {path}: not an ONNX file") from error
    raw = next((p.value for p in graph.metadata_props if p.key == METADATA_KEY), None)
    if raw is None:
        raise Unusable(f"--model {path}: no metadata {METADATA_KEY!r}; not a student")
    try:
        metadata: dict[str, Any] = json.loads(raw)
        Metadata.model_validate(metadata)
    except ValueError as error:
        raise Unusable(f"--model {path}: metadata: {str(error).splitlines()[0]}") from error
    return graph, metadata


def read_model(path: Path) -> ModelFile:
    """The student in a file, and its 8-bit form if that lies beside it; raises Unusable."""
    graph, metadata = read_metadata(path)
    beside = path.with_name(f"{path.stem}-int8{path.suffix}")
    small = ""
    if beside.is_file():
        _, other = read_metadata(beside)
        made_from = other.get("provenance", {}).get("quantised", {}).get("from")
        small = str(other["model_id"]) if made_from == metadata["model_id"] else ""
    return ModelFile(
        name=path.name,
        metadata=metadata,
        parameters=sum(_numbers(tensor) for tensor in graph.graph.initializer),
        size=path.stat().st_size,
        mflop=_mflop(path, metadata),
        small=small,
    )


def _numbers(tensor: onnx.TensorProto) -> int:
    """How many trained numbers a constant holds; indices and shapes are none."""
    trained = (onnx.TensorProto.FLOAT, onnx.TensorProto.INT8, onnx.TensorProto.FLOAT16)
    return int(np.prod(tensor.dims)) if tensor.data_type in trained else 0


def _mflop(path: Path, metadata: dict[str, Any]) -> float:
    meta = Metadata.model_validate(metadata)
    found = products(optimised(path), silence(meta, 1))
    flop = sum(2 * one.count * int(np.prod(one.shape)) for one, _ in found)
    return float(flop / meta.block_seconds / 1e6)


def _read_json(flag: str, path: Path) -> Result:
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Unusable(f"{flag} {path}: {error.strerror}") from error
    except ValueError as error:
        raise Unusable(f"{flag} {path}: not JSON: {error}") from error
    if not isinstance(result, dict):
        raise Unusable(f"{flag} {path}: not an object")
    return result


def _accuracy(flag: str, path: Path, model: ModelFile, *, per_speaker: bool) -> Result:
    """A result of accuracy.py that belongs to the model."""
    result = _read_json(flag, path)
    missing = [key for key in NEEDED if key not in result]
    if missing:
        why = f"no {', '.join(missing)}; write it again with this benchmarks/accuracy.py --json"
        raise Unusable(f"{flag} {path}: {why}")
    if result["model"] not in model.ids:
        raise Unusable(_other(flag, path, result, model))
    if result["per_speaker"] != per_speaker:
        unit = "speaker" if result["per_speaker"] else "utterance"
        raise Unusable(f"{flag} {path}: has a call per {unit}")
    if not result["speakers"]:
        raise Unusable(f"{flag} {path}: no call was finished")
    return result


def _other(flag: str, path: Path, result: Result, model: ModelFile) -> str:
    measured = result["model"] or "nothing"
    return f"{flag} {path}: measured {measured}, the model is {' or '.join(model.ids)}"


def _checked(flag: str, path: Path, needed: tuple[str, ...], made_by: str) -> Result:
    result = _read_json(flag, path)
    missing = [key for key in needed if key not in result]
    if missing:
        raise Unusable(f"{flag} {path}: no {', '.join(missing)}; not of {made_by}")
    return result


def read_inputs(paths: dict[str, Path | None]) -> Inputs:
    """Read and check the files.

    Args:
        paths: by role: model, accuracy, per-speaker, clean, probe, voices, cost; None where not
            given, which only the first two may not be.

    Raises:
        Unusable: a file cannot be read, or is of another student.
    """
    given = {role: path for role, path in paths.items() if path is not None}
    model = read_model(given["model"])
    probed, measured = ("corpus_probe", "within_corpus", "reading"), ("max_calls", "device")
    results: dict[str, Result | None] = {
        role: _accuracy(f"--{role}", given[role], model, per_speaker=role == "per-speaker")
        for role in ("accuracy", "per-speaker", "clean")
        if role in given
    }
    if "probe" in given:
        results["probe"] = _checked("--probe", given["probe"], probed, "train.probe --json")
    if "voices" in given:
        results["voices"] = voices = _checked(
            "--voices", given["voices"], ("per_cell", "male_hz", "female_hz"), "implausible.py"
        )
        if voices["model"] not in model.ids:
            raise Unusable(_other("--voices", given["voices"], voices, model))
    if "cost" in given:
        results["cost"] = _checked("--cost", given["cost"], measured, "throughput.py --json")
    single = results["accuracy"]
    assert single is not None
    return Inputs(
        model=model,
        single=single,
        calls=results.get("per-speaker"),
        clean=results.get("clean"),
        probe=results.get("probe"),
        voices=results.get("voices"),
        cost=results.get("cost"),
        sources=tuple(
            Source(role, path.name, hashlib.sha256(path.read_bytes()).hexdigest()[:12])
            for role, path in given.items()
        ),
    )
