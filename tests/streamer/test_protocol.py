"""The generated code belongs to the .proto, and the .proto is in order."""

import importlib.util
import itertools
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.rpc import trunk_pb2
from streamer.rpc import voicecohort_pb2 as pb

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_is_up_to_date():
    if importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpc_tools is missing: whether streamer/rpc is stale was NOT checked")
    if shutil.which("protoc-gen-mypy", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("mypy-protobuf is missing: whether streamer/rpc is stale was NOT checked")
    done = subprocess.run(
        [sys.executable, "proto/generate.py", "--check"],
        cwd=ROOT,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "up to date"), done.stderr


def test_proto_passes_buf_lint():
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or shutil.which("buf")
    if buf is None:
        pytest.skip("buf is missing: proto/ was NOT linted")
    done = subprocess.run(
        [buf, "lint", "proto"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.parametrize("file", sorted((ROOT / "proto").rglob("*.proto")), ids=lambda f: f.stem)
def test_every_message_and_field_is_explained(file):
    """Comments are the protocol's documentation: a field without one is undocumented."""
    source = file.read_text()
    lines = [line.strip() for line in source.splitlines()]
    bare = [
        line
        for before, line in itertools.pairwise(lines)
        if line.endswith((";", "{"))
        and not line.startswith(("syntax", "package", "import", "option", "//", "}"))
        and not before.startswith("//")
    ]
    assert bare == []


@pytest.mark.parametrize(
    ("file", "name", "rpc"),
    [
        (pb.DESCRIPTOR, "ClassifierService", "StreamClassify"),
        (trunk_pb2.DESCRIPTOR, "TrunkService", "StreamTrunk"),
    ],
)
def test_service_is_where_gateways_look_for_it(file, name, rpc):
    service = file.services_by_name[name]
    assert service.full_name == f"voicecohort.v1.{name}"
    (method,) = service.methods
    assert method.name == rpc
    assert method.client_streaming
    assert method.server_streaming
