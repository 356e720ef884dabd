"""Making tokens and keys, as an operator does."""

import base64
import datetime as dt
import subprocess
import sys
import tomllib

import pytest

from streamer.security.encryption import read_keys
from streamer.security.tokens import Tokens, read_tokens


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "streamer.security", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_token_matches_its_entry(tmp_path):
    flags = ["--scope", "classify", "--scope", "resume", "--scope", "classify"]
    done = command(
        *("token", "--identity", 'gate"way\\1', *flags, "--max-calls", "300"),
        *("--expires", "2027-01-31T01:00:00+01:00"),
    )
    assert done.returncode == 0
    (secret,) = done.stdout.splitlines()
    assert secret not in done.stderr
    file = tmp_path / "tokens.toml"
    file.write_text(done.stderr + command("token", "--identity", "b", "--scope", "resume").stderr)
    token = Tokens(file).find(secret)
    assert token == read_tokens(file)[0]
    assert token.identity == 'gate"way\\1'
    assert token.scopes == ["classify", "resume"]
    assert token.max_calls == 300
    assert token.expires == dt.datetime(2027, 1, 31, tzinfo=dt.UTC)
    assert command("token", "--identity", "x", "--scope", "classify").stdout != done.stdout


def test_a_key_is_an_entry_with_32_random_bytes(tmp_path):
    file = tmp_path / "keys.toml"
    file.write_text(command("key").stdout)
    assert len(read_keys(file)[0].secret) == 32
    first, second = (tomllib.loads(command("key").stdout)["key"][0] for _ in range(2))
    made = dt.datetime.fromisoformat(first["id"])
    assert abs(dt.datetime.now(dt.UTC) - made) < dt.timedelta(minutes=1)
    assert len(base64.b64decode(first["secret"], validate=True)) == 32
    assert first["secret"] != second["secret"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["token", "--identity", "x"], "--scope"),
        (["token", "--scope", "classify"], "--identity"),
        (["token", "--identity", "a b", "--scope", "classify"], "--identity: String should match"),
        (["token", "--identity", "x", "--scope", "all"], "'all'"),
        (["token", "--identity", "x", "--scope", "resume", "--max-calls", "0"], "--max-calls: In"),
        (["token", "--identity", "x", "--scope", "resume", "--expires", "soon"], "'soon' is not"),
        ([], "kind"),
    ],
)
def test_invalid_entries_are_not_made(arguments, message):
    done = command(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_help_shows_the_steps():
    assert "token" in command("--help").stdout
    text = " ".join(command("token", "--help").stdout.split())
    for word in ("--tokens", "VOICECOHORT_TOKEN", "classify", "remove the old entry"):
        assert word in text
    assert "--checkpoint-keys" in " ".join(command("key", "--help").stdout.split())
