"""Files of tokens and of checkpoint keys, and headers: refused, or taken at their word."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import os
import shutil
import tempfile
import tomllib
from pathlib import Path

from inputs import FuzzInput

from streamer.errors import CallError
from streamer.security.encryption import KEY_BYTES, KeysError, read_keys
from streamer.security.identity import Identities
from streamer.security.tokens import Tokens, TokensError, digest, read_tokens

FOLDER = Path(tempfile.mkdtemp(prefix="fuzz"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
TOKEN = "a token"  # noqa: S105 - made up
SECRET = base64.b64encode(bytes(range(KEY_BYTES))).decode()
TOKENS = f"""[[token]]
identity = "gateway-berlin"
sha256 = "{digest(TOKEN)}"
scopes = ["classify", "resume"]
max_calls = 300
expires = 2099-01-31T00:00:00Z

[[token]]
identity = "old"
sha256 = "{digest("old")}"
scopes = ["classify"]
expires = 2001-01-31T00:00:00Z

[[token]]
identity = "reader"
sha256 = "{digest("reader")}"
scopes = ["resume"]
"""
KEYS = f"""[[key]]
id = "2026-11"
secret = "{SECRET}"

[[key]]
id = "2026-10"
secret = "{base64.b64encode(bytes(KEY_BYTES)).decode()}"
"""
HEADERS = (f"Bearer {TOKEN}", "Bearer old", "bearer reader", "Bearer ", "Basic dTpw", "")
LONG = 12
"""Characters from which on a value that shows in a message is a leak."""


def seeds() -> list[bytes]:
    """Good files, some that are broken in one place, and headers."""
    # Deeper, and longer, than Python's own parser of TOML can take.
    deep = ["[[token]]\nmax_calls = " + "9" * 5000, "[[key]]\nid = " + "9" * 5000]
    deep += ["token = " + "[" * 2000, "key = " + "[" * 2000 + "]" * 2000, "[a" + ".a" * 1000 + "]"]
    files = [TOKENS, KEYS, "", "token = 1", "[[token]]", "[[key]]\nid = 1\n", *deep]
    made = [bytes([kind]) + text.encode() for text in files for kind in (0, 1)]
    made += [bytes([kind]) + b"\xff\xfe[[token]]" for kind in (0, 1)]
    return made + [b"\x02" + header.encode() for header in HEADERS]


def run(data: bytes) -> None:
    """One input: what it is, then the file or the headers."""
    fuzz_input = FuzzInput(data)
    kind = fuzz_input.below(3)
    if kind == 2:
        _headers(fuzz_input)
        return
    path = FOLDER / f"{os.getpid()}.toml"
    text = fuzz_input.rest()
    path.write_bytes(text)
    read, error_of = ((read_tokens, TokensError), (read_keys, KeysError))[kind]
    try:
        entries = read(path)
    except error_of as error:
        message = str(error)
    else:
        assert entries
        return
    assert str(path) in message
    assert "\n" not in message
    for value in _values(text):
        assert value not in message, "a secret shows in an error"


def _values(text: bytes) -> list[str]:
    """Every string that stands as a value of an entry, as far as TOML can say."""
    with contextlib.suppress(ValueError, RecursionError):
        content = tomllib.loads(text.decode())
        entries = [e for table in content.values() if isinstance(table, list) for e in table]
        values = [v for e in entries if isinstance(e, dict) for v in e.values()]
        return [value for value in values if isinstance(value, str) and len(value) >= LONG]
    return []


@functools.cache
def _identities() -> Identities:
    path = FOLDER / "good.toml"
    path.write_text(TOKENS)
    return Identities(Tokens(path))


class _Stream:
    """Properties of a stream from gRPC."""

    def __init__(self, headers: list[tuple[str, str | bytes]], peer: str) -> None:
        self._headers, self._peer = headers, peer

    def peer(self) -> str:
        return self._peer

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_common_name": [self._peer.encode()]}

    def invocation_metadata(self) -> list[tuple[str, str | bytes]]:
        return self._headers


def _headers(fuzz_input: FuzzInput) -> None:
    count = fuzz_input.below(4)
    if count == 3:  # binary, under a name that gRPC would not allow it
        headers: list[tuple[str, str | bytes]] = [("authorization", fuzz_input.piece())]
    else:
        text = fuzz_input.rest().decode("latin-1")
        headers = [("authorization", part) for part in text.split("\n")[: count + 1]]
    stream = _Stream(headers, f"ipv4:{headers[0][1]!s}")
    try:
        caller = _identities().caller(stream)
    except CallError as error:
        status, message = error.status, str(error)
    else:
        status, message = "", ""
        assert caller.identity == "gateway-berlin"
        assert len(headers) == 1
        assert digest(str(headers[0][1]).partition(" ")[2].strip()) == digest(TOKEN)
    assert status in {"", "UNAUTHENTICATED", "PERMISSION_DENIED"}
    assert TOKEN not in message
    Identities().caller(stream)
