"""Files of tokens: what is read, what is refused by name, what happens when they change."""

import datetime as dt

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from streamer.security.tokens import Tokens, TokensError, digest, new_secret, read_tokens

SECRET, OTHER = new_secret(), new_secret()


def entry(secret=SECRET, identity="gateway-berlin", scopes='["classify"]', more=""):
    return (
        f'[[token]]\nidentity = "{identity}"\nsha256 = "{digest(secret)}"\n'
        f"scopes = {scopes}\n{more}\n"
    )


@pytest.fixture
def file(tmp_path):
    return tmp_path / "tokens.toml"


def write(file, *entries):
    """As tools that renew secrets do: never half-written."""
    fresh = file.with_suffix(".new")
    fresh.write_text("".join(entries))
    fresh.replace(file)


def test_entry_has_identity_and_scopes(file):
    more = "max_calls = 300\nexpires = 2027-01-31T00:00:00Z"
    write(file, entry(scopes='["classify", "resume"]', more=more), entry(OTHER, "gateway-oslo"))
    first, second = read_tokens(file)
    assert (first.identity, first.scopes, first.max_calls) == (
        "gateway-berlin",
        ["classify", "resume"],
        300,
    )
    assert first.expires == dt.datetime(2027, 1, 31, tzinfo=dt.UTC)
    assert (second.identity, second.max_calls, second.expires) == ("gateway-oslo", None, None)


def test_token_is_random_and_stored_as_hash(file):
    assert len({new_secret() for _ in range(100)}) == 100
    assert len(SECRET) == 43
    write(file, entry())
    assert SECRET not in file.read_text()
    assert SECRET not in repr(Tokens(file).find(SECRET))


BAD = {
    "nothing": ("", "token: Field required"),
    "an empty list": ("token = []", "token: List should have at least 1 item"),
    "not TOML": ("[[token]\n", "not TOML: "),
    "nested too deep for a parser": (f"token = {'[' * 2000}", "not TOML: "),
    "a number too long for a parser": (entry(more=f"max_calls = {'9' * 5000}"), "not TOML: "),
    "another table": ('[[key]]\nid = "x"\n', "token: Field required"),
    "identity missing": (entry().replace("identity", "name"), "token 1: identity: Field required"),
    "identity with a space": (entry(identity="a b"), "token 1: identity: String should match"),
    "identity too long": (entry(identity="a" * 129), "token 1: identity: String should match"),
    "the token itself": (
        entry().replace(digest(SECRET), SECRET),
        "token 1: sha256: String should match pattern",
    ),
    "no scope": (entry(scopes="[]"), "token 1: scopes: List should have at least 1 item"),
    "an unknown scope": (
        entry() + entry(OTHER, scopes='["classify", "admin"]'),
        "token 2: scopes.1: Input should be 'classify' or 'resume'",
    ),
    "no calls": (entry(more="max_calls = 0"), "token 1: max_calls: Input should be greater than"),
    "calls as text": (entry(more='max_calls = "9"'), "token 1: max_calls: Input should be a valid"),
    "a local time": (
        entry(more="expires = 2027-01-31T00:00:00"),
        "token 1: expires: Input should have timezone info",
    ),
    "a time as text": (entry(more='expires = "2027-01-31"'), "token 1: expires: Input should be"),
    "an unknown field": (entry(more="expire = 2027-01-31"), "token 1: expire: Extra inputs are"),
    "twice the same": (entry() + entry(identity="x"), "token 2: sha256: the same as of token 1"),
}


@pytest.mark.parametrize("name", BAD)
def test_error_names_file_entry_and_field(file, name):
    content, message = BAD[name]
    file.write_text(content)
    with pytest.raises(TokensError) as caught:
        read_tokens(file)
    assert str(caught.value).startswith(f"tokens {file}: {message}")
    assert SECRET not in str(caught.value)
    assert digest(SECRET) not in str(caught.value)


def test_unreadable_file_is_named(file):
    with pytest.raises(TokensError, match=r"tokens\.toml: No such file"):
        Tokens(file)
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(TokensError, match=r"tokens\.toml: not UTF-8 at byte 0"):
        Tokens(file)


@given(st.one_of(st.binary(max_size=300), st.text(max_size=200).map(lambda t: t.encode())))
def test_any_bytes_are_tokens_or_one_line_error(tmp_path_factory, content):
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_bytes(content)
    with pytest.raises(TokensError):
        read_tokens(file)


@given(st.text())
def test_unknown_tokens_are_not_found(tmp_path_factory, text):
    file = tmp_path_factory.getbasetemp() / "one.toml"
    if not file.exists():
        write(file, entry())
    assert Tokens(file).find(text) is None


def test_the_hash_of_a_token_is_no_token(file):
    write(file, entry())
    assert Tokens(file).find(digest(SECRET)) is None


def test_token_expires(file):
    write(file, entry(more="expires = 2027-01-31T00:00:00Z"), entry(OTHER))
    now = dt.datetime(2027, 1, 30, 23, 59, 59, tzinfo=dt.UTC)
    tokens = Tokens(file, lambda: now)
    token = tokens.find(SECRET)
    assert not tokens.expired(token)
    now += dt.timedelta(seconds=1)
    assert tokens.find(SECRET) is token, "still known, so that the error can name the expiry"
    assert tokens.expired(token)
    assert not tokens.expired(tokens.find(OTHER))


def test_new_file_applies_and_invalid_file_does_not(file):
    write(file, entry())
    tokens = Tokens(file)
    with structlog.testing.capture_logs() as log:
        write(file, entry(OTHER))
        assert (tokens.find(SECRET), tokens.find(OTHER).identity) == (None, "gateway-berlin")
        for broken in ("", "[[token]]\n", entry()[:-40]):
            write(file, broken)
            for _ in range(3):
                assert tokens.find(OTHER) is not None
        file.unlink()
        assert tokens.find(OTHER) is not None
        write(file, entry())
        assert (tokens.find(OTHER), tokens.find(SECRET).identity) == (None, "gateway-berlin")
    kept = ["tokens_reload_failed"] * 4  # a broken file is logged once
    assert [line["event"] for line in log] == ["tokens_changed", *kept, "tokens_changed"]
    assert SECRET not in str(log)
    assert OTHER not in str(log)
    assert digest(OTHER) not in str(log)


def test_rewritten_or_relinked_file_is_reloaded(file, tmp_path):
    """The second as Kubernetes mounts a secret."""
    versions = [tmp_path / "1.toml", tmp_path / "2.toml"]
    for version, secret in zip(versions, (SECRET, OTHER), strict=True):
        write(version, entry(secret))
    file.symlink_to(versions[0])
    tokens = Tokens(file)
    link = tmp_path / "link"
    link.symlink_to(versions[1])
    link.replace(file)
    assert tokens.find(OTHER)
    assert tokens.find(SECRET) is None
    file.write_text(entry(SECRET) + entry(OTHER))
    assert tokens.find(SECRET)
    assert tokens.find(OTHER)


def test_unchanged_file_is_not_read(file, monkeypatch):
    write(file, entry())
    tokens = Tokens(file)
    monkeypatch.setattr("streamer.security.secret_file.read_toml", None)
    monkeypatch.setattr(tokens._file, "_read", None)
    for _ in range(10):
        assert tokens.find(SECRET)
