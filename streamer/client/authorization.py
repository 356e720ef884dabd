"""The token of a client, and how it is shown. It belongs in no command line: others can read those.

gRPC's own call credentials work over TLS only; a header works over both.
"""

from __future__ import annotations

import os
from pathlib import Path

VARIABLE = "VOICECOHORT_TOKEN"


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    """Headers of a call; none for an empty token.

    Raises:
        ValueError: it is no token; the message does not repeat it.
    """
    if not token:
        return ()
    if not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("the token must be printable ASCII without spaces")
    return (("authorization", f"Bearer {token}"),)


def read_token(file: Path | None) -> str:
    """The token in a file, without white space around it; without a file that of VOICECOHORT_TOKEN.

    Raises:
        ValueError: the file cannot be read or is empty.
    """
    if file is None:
        return os.environ.get(VARIABLE, "").strip()
    try:
        token = file.read_text(encoding="ascii").strip()
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise ValueError(f"{file}: not ASCII") from None
    if not token:
        raise ValueError(f"{file}: holds no token")
    return token
