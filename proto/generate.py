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
SOURCE = "voicecohort/v1/voicecohort.proto"
TARGET = ROOT / "streamer" / "rpc"


def generate() -> dict[str, str]:
    """File name -> content of the generated package."""
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            f"--{kind}={folder}"
            for kind in ("python_out", "grpc_python_out", "mypy_out", "mypy_grpc_out")
        ]
        include = resources.files("grpc_tools") / "_proto"
        code = protoc.main(["protoc", f"-I{ROOT / 'proto'}", f"-I{include}", *flags, SOURCE])
        if code:
            raise SystemExit(f"protoc ended with {code}")
        files = sorted(Path(folder, SOURCE).parent.glob("voicecohort_pb2*"))
        # The descriptor keeps its public name; only the Python import moves into our package.
        return {
            file.name: file.read_text()
            .replace(
                "from voicecohort.v1 import voicecohort_pb2",
                "from streamer.rpc import voicecohort_pb2",
            )
            .replace("from voicecohort.v1 import", "from streamer.rpc import")
            for file in files
        }


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
