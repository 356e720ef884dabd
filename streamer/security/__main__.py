"""Make tokens and checkpoint keys: ``python -m streamer.security --help``."""

from __future__ import annotations

import argparse
import base64
import datetime as dt
import json
import secrets
import sys
from typing import get_args

from streamer.process.extras import require

require("python -m streamer.security", "server", "pydantic", "cryptography")

from pydantic import ValidationError

from streamer.security.encryption import KEY_BYTES
from streamer.security.tokens import Scope, Token, digest, new_secret


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streamer.security",
        description="Make the secrets of a server. Nothing is written to disk: redirect the "
        "output. A running server reloads a changed file.",
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    token = kinds.add_parser(
        "token",
        help="a bearer token for a gateway",
        description="Make a token. The token itself goes to standard output, once: it cannot be "
        "recovered. The entry to paste into the server's --tokens file, which holds only its "
        "hash, goes to standard error. To keep the token off the screen: "
        "(umask 077; python -m streamer.security token --identity berlin --scope classify "
        "> berlin.token)",
        epilog="To replace a token: make a new one of the same identity, add its entry, give the "
        "token to the gateway (python -m streamer.client --token-file, or VOICECOHORT_TOKEN), then "
        "remove the old entry. Running calls go on.",
    )
    token.add_argument(
        "--identity", required=True, help="owner of the token; appears in the server's log, and "
        "calls are counted by it"
    )  # fmt: skip
    token.add_argument(
        "--scope",
        action="append",
        required=True,
        choices=get_args(Scope),
        help="allowed use, once or more: `classify` opens calls, `resume` requests checkpoints "
        "and resumes calls from them",
    )
    token.add_argument(
        "--max-calls", type=int, help="concurrent calls, for each worker; else the server's "
        "--max-calls-per-identity"
    )  # fmt: skip
    token.add_argument(
        "--expires",
        type=_time,
        metavar="DATE",
        help="time of expiry: 2027-01-31 (midnight, UTC) or 2027-01-31T12:00:00+01:00; else never",
    )
    kinds.add_parser(
        "key",
        help="a key for checkpoints",
        description="Make an entry for the server's --checkpoint-keys file, on standard output. "
        "The first key of the file seals checkpoints, every key opens them.",
        epilog="To replace a key: put the new entry last on every server, then move it to the "
        "front on every server, and remove the old one once --checkpoint-max-age has passed: so "
        "no server receives a checkpoint that it cannot open.",
    )
    return parser


def _time(text: str) -> dt.datetime:
    try:
        time = dt.datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not a date (ISO 8601)") from error
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


def _toml_time(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def token_entry(token: Token) -> str:
    """Return a token as an entry of the --tokens file."""
    lines = [
        "[[token]]",
        f"identity = {json.dumps(token.identity)}",
        f'sha256 = "{token.sha256}"',
        f"scopes = {json.dumps(token.scopes)}",
    ]
    if token.max_calls is not None:
        lines.append(f"max_calls = {token.max_calls}")
    if token.expires is not None:
        lines.append(f"expires = {_toml_time(token.expires)}")
    return "\n".join(lines) + "\n"


def key_entry() -> str:
    """Make a key and return it as an entry of the --checkpoint-keys file; its id is the time."""
    secret = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
    made = _toml_time(dt.datetime.now(dt.UTC))
    return f'[[key]]\nid = "{made}"\nsecret = "{secret}"\n'


def main(argv: list[str] | None = None) -> int:
    """Run the command line; exit with 2 for an entry that is not valid."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.kind == "key":
        print(key_entry(), end="")  # noqa: T201 - it is the output
        return 0
    secret = new_secret()
    try:
        token = Token(
            identity=arguments.identity,
            sha256=digest(secret),
            scopes=list(dict.fromkeys(arguments.scope)),
            max_calls=arguments.max_calls,
            expires=arguments.expires,
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        parser.error(f"--{first['loc'][0]!s}".replace("_", "-") + f": {first['msg']}")
    print("\n" + token_entry(token), end="", file=sys.stderr)  # noqa: T201
    print(secret)  # noqa: T201 - it is the output
    return 0


if __name__ == "__main__":
    sys.exit(main())
