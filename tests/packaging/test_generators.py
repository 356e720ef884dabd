"""Every official generator accepts the protocol and puts its code where users expect it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PROTO = Path(__file__).parents[2] / "proto"
SOURCES = ["voicecohort/v1/voicecohort.proto", "voicecohort/v1/trunk.proto"]
PROTOC_GEN_ES = "2.17.0"
GENERATED = {
    "go": ("voicecohort/v1/voicecohort.pb.go", "package voicecohortv1"),
    "java": ("voicecohort/v1/StreamConfig.java", "package voicecohort.v1;"),
    "csharp": ("Voicecohort.cs", "namespace Voicecohort.V1 {"),
    "php": ("Voicecohort/V1/StreamConfig.php", "namespace Voicecohort\\V1;"),
    "ruby": ("voicecohort/v1/voicecohort_pb.rb", "module Voicecohort"),
}


def generate(out, *flags):
    protoc = shutil.which("protoc")
    if protoc is None:
        pytest.skip("protoc (Debian package protobuf-compiler) is missing: NOT checked")
    done = subprocess.run(
        [protoc, f"-I{PROTO}", *flags, *SOURCES],
        cwd=out,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", GENERATED)
def test_protoc_generates(language, tmp_path):
    if language == "go" and shutil.which("protoc-gen-go") is None:
        pytest.skip("protoc-gen-go (Debian package of that name) is missing: NOT checked")
    generate(tmp_path, f"--{language}_out={tmp_path}")
    name, line = GENERATED[language]
    assert line in (tmp_path / name).read_text()


def test_typescript_is_generated(tmp_path):
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is missing: TypeScript was NOT generated")
    packages = [f"@bufbuild/{name}@{PROTOC_GEN_ES}" for name in ("protoc-gen-es", "protobuf")]
    installed = subprocess.run(
        [
            npm,
            "install",
            "--silent",
            "--no-audit",
            "--no-fund",
            "--prefix",
            str(tmp_path),
            *packages,
        ],
        capture_output=True,
        timeout=120,
        env={**os.environ, "npm_config_cache": str(tmp_path / "cache")},
        check=False,
    )
    if installed.returncode:
        pytest.skip("npm cannot install protoc-gen-es here: TypeScript was NOT generated")
    plugin = tmp_path / "node_modules" / ".bin" / "protoc-gen-es"
    generate(
        tmp_path, f"--plugin=protoc-gen-es={plugin}", f"--es_out={tmp_path}", "--es_opt=target=ts"
    )
    code = (tmp_path / "voicecohort" / "v1" / "voicecohort_pb.ts").read_text()
    assert "export type StreamConfig" in code
