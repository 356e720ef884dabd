"""Generate streamer/rpc/ from proto/: `python proto/generate.py [--check]`.

With --check nothing is written; exit status 1 names what is stale.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
SOURCES = {
    "voicecohort/v1/voicecohort.proto": ("python", "grpc_python", "mypy", "mypy_grpc"),
    "voicecohort/v1/trunk.proto": ("python", "grpc_python", "mypy", "mypy_grpc"),
    "voicecohort/internal/v1/checkpoint.proto": ("python", "mypy"),
    "voicecohort/internal/v1/envelope.proto": ("python", "mypy"),
}
"""Each file, and what is made of it."""
TARGET = ROOT / "streamer" / "rpc"


def generate() -> dict[str, str]:
    """File name -> content of the generated package."""
    include = resources.files("grpc_tools") / "_proto"
    made: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for source, kinds in SOURCES.items():
            flags = [f"--{kind}_out={folder}" for kind in kinds]
            code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", *flags, source])
            if code:
                raise SystemExit(f"protoc ended with {code}")
        for file in sorted(Path(folder).rglob("*_pb2*")):
            # The descriptor keeps its name; only the Python import moves into our package.
            made[file.name] = file.read_text().replace(
                "from voicecohort.v1 import", "from streamer.rpc import"
            )
    return made


def main() -> int:
    """Write or check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing, fail if stale")
    check = parser.parse_args().check
    stale = []
    for name, content in generate().items():
        path = TARGET / name
        if not path.exists() or path.read_text() != content:
            stale.append(name)
            if not check:
                path.write_text(content)
    if check and stale:
        print("stale, run `python proto/generate.py`:", *stale, file=sys.stderr)
        return 1
    print("written:" if stale else "up to date", *stale)
    return 0


if __name__ == "__main__":
    sys.exit(main())
