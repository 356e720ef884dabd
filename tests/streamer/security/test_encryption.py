"""What is sealed is secret, whole, dated, and opened by replicas alone."""

import base64
import os

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from streamer.security.encryption import (
    MAGIC,
    MAX_CLOCK_SKEW_SECONDS,
    OVERHEAD,
    Keys,
    KeysError,
    Sealer,
    SealError,
    read_keys,
)

NOW = 1_800_000_000.0


def entry(name, secret):
    return f'[[key]]\nid = "{name}"\nsecret = "{base64.b64encode(secret).decode()}"\n'


def write(path, *entries):
    """Replaced, as a secrets manager does, so that it is never read half-written."""
    fresh = path.with_suffix(".new")
    fresh.write_text("".join(entries))
    fresh.replace(path)
    return path


OLD, NEW = entry("old", bytes(range(32))), entry("new", bytes(range(32, 64)))


class Clock:
    def __init__(self):
        self.now = NOW

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    """A sealer whose clock stands still."""
    path = write(tmp_path_factory.mktemp("keys") / "keys.toml", OLD)
    return Sealer(Keys(path), 300.0, lambda: NOW)


# --- sealing ---


@given(content=st.binary(max_size=4000))
def test_what_is_sealed_is_opened(fixed, content):
    sealed = fixed.seal(content)
    assert len(sealed) <= len(content) + OVERHEAD
    assert fixed.open(sealed).content == content
    assert len(content) < 8 or content not in sealed


def test_longest_id_stays_within_the_overhead(tmp_path, clock):
    path = write(tmp_path / "keys.toml", entry("i" * 64, os.urandom(32)))
    assert len(Sealer(Keys(path), 300.0, clock).seal(b"")) == OVERHEAD


def test_equal_content_is_sealed_differently(fixed):
    """Neither salt nor nonce comes again: the same content looks like another."""
    sealed = {fixed.seal(b"the same") for _ in range(200)}
    tails = {message[-24:] for message in sealed}
    assert len(sealed) == len(tails) == 200


@pytest.fixture(scope="module")
def sealed(fixed):
    return fixed.seal(b"a call's whole memory")


def test_no_shorter_part_is_opened(fixed, sealed):
    for length in range(len(sealed)):
        with pytest.raises(SealError):
            fixed.open(sealed[:length])


def test_no_bit_can_be_changed(fixed, sealed):
    for position in range(len(sealed)):
        for bit in range(8):
            forged = bytearray(sealed)
            forged[position] ^= 1 << bit
            with pytest.raises(SealError):
                fixed.open(bytes(forged))


@given(noise=st.binary(max_size=300))
@example(noise=b"")
@example(noise=MAGIC)
@example(noise=MAGIC + bytes(300))
@example(noise=MAGIC + b"\xff" * 300)
@example(noise=MAGIC + b"\x03" + bytes(8) + b"old" + bytes(60))
def test_noise_is_refused(fixed, sealed, noise):
    for forged in (noise, MAGIC + noise, sealed + noise[:1] + b"x", noise + sealed):
        if forged != sealed:
            with pytest.raises(SealError):
                fixed.open(forged)


@given(cut=st.integers(0, 10_000), other=st.binary(min_size=21, max_size=21))
def test_mixed_parts_are_refused(fixed, sealed, cut, other):
    second = fixed.seal(other)
    cut = 1 + cut % (len(sealed) - 2)
    if (forged := sealed[:cut] + second[cut:]) not in (sealed, second):
        with pytest.raises(SealError):
            fixed.open(forged)


# --- age ---


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        (0.0, None),
        (299.0, None),
        (301.0, r"it is 301 s old, at most 300 s are allowed"),
        (1e9, "s old"),
        (-MAX_CLOCK_SKEW_SECONDS + 1, None),
        (-MAX_CLOCK_SKEW_SECONDS - 1, r"it was sealed 31 s from now: the servers' clocks differ"),
    ],
)
def test_age_is_limited(tmp_path, clock, later, reason):
    sealer = Sealer(Keys(write(tmp_path / "keys.toml", OLD)), 300.0, clock)
    sealed = sealer.seal(b"content")
    clock.now += later
    if reason is None:
        assert sealer.open(sealed).age == max(later, 0.0)
    else:
        with pytest.raises(SealError, match=reason):
            sealer.open(sealed)


# --- keys ---


def test_rotation(tmp_path, clock):
    """Sealed with the old key, opened after the new one is first, refused when the old is gone."""
    path = tmp_path / "keys.toml"
    sealer = Sealer(Keys(write(path, OLD)), 300.0, clock)
    before = sealer.seal(b"before")
    write(path, NEW, OLD)
    after = sealer.seal(b"after")
    assert b"new" in after
    assert b"old" in before
    assert sealer.open(before).content == b"before"
    assert sealer.open(after).content == b"after"
    write(path, NEW)
    with pytest.raises(SealError, match="no key of this server opens it"):
        sealer.open(before)
    assert sealer.open(after).content == b"after"


def test_another_secret_under_the_same_id_opens_nothing(tmp_path, clock):
    one = Sealer(Keys(write(tmp_path / "one.toml", OLD)), 300.0, clock)
    other = Keys(write(tmp_path / "other.toml", entry("old", os.urandom(32))))
    with pytest.raises(SealError, match="not authentic"):
        Sealer(other, 300.0, clock).open(one.seal(b"content"))


def test_invalid_file_keeps_the_keys(tmp_path, clock):
    path = tmp_path / "keys.toml"
    sealer = Sealer(Keys(write(path, OLD)), 300.0, clock)
    sealed = sealer.seal(b"content")
    with capture_logs() as lines:
        for broken in ("[[key", "", '[[key]]\nid = "x"\nsecret = "c2hvcnQ="\n'):
            write(path, broken)
            assert sealer.open(sealed).content == b"content"
        path.unlink()
        assert sealer.open(sealer.seal(b"more")).content == b"more"
        write(path, NEW)
        with pytest.raises(SealError, match="no key"):
            sealer.open(sealed)
    events = [line["event"] for line in lines]
    assert events == ["checkpoint_keys_reload_failed"] * 4 + ["checkpoint_keys_changed"]
    assert "c2hvcnQ" not in str(lines)


SECRET = base64.b64encode(bytes(32)).decode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "key: Field required"),
        ("key = 3", "key: Input should be a valid list"),
        ("key = []", "key: List should have at least 1 item"),
        ("[[key]]\n", "key 1: id: Field required"),
        (f'[[key]]\nid = ""\nsecret = "{SECRET}"', "key 1: id: String should match"),
        (f'[[key]]\nid = "a b"\nsecret = "{SECRET}"', "key 1: id: String should match"),
        (f'[[key]]\nid = "{"x" * 65}"\nsecret = "{SECRET}"', "key 1: id: String should match"),
        (f'[[key]]\nid = "é"\nsecret = "{SECRET}"', "key 1: id: String should match"),
        ('[[key]]\nid = "a"\nsecret = "geheim!"', "key 1: secret: Value error, must be base64"),
        ('[[key]]\nid = "a"\nsecret = "Z2VoZWlt"', "key 1: secret: Value error, must be 32 bytes"),
        (f'[[key]]\nid = "a"\nsecret = "{SECRET}"\nmore = 1', "key 1: more: Extra inputs"),
        (f'[[key]]\nid = "a"\nsecret = "{SECRET}"\n' * 2, "two keys have the same id"),
        ("[[key", "not TOML"),
        (f"key = {'[' * 2000}", "not TOML"),
        (f"[[key]]\nid = {'9' * 5000}", "not TOML"),
    ],
)
def test_unusable_file_is_named_and_not_repeated(tmp_path, content, reason):
    path = write(tmp_path / "keys.toml", content)
    with pytest.raises(KeysError) as caught:
        read_keys(path)
    message = str(caught.value)
    assert message.startswith(f"checkpoint keys {path}: {reason}")
    assert "\n" not in message
    assert not any(secret in message for secret in (SECRET, "geheim", "Z2VoZWlt"))


def test_missing_and_undecodable_file(tmp_path):
    with pytest.raises(KeysError, match="No such file"):
        Keys(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'id = "\xe9"')
    with pytest.raises(KeysError, match="not UTF-8 at byte 6"):
        read_keys(tmp_path / "latin.toml")


def test_secret_is_in_no_representation(tmp_path):
    (key,) = read_keys(write(tmp_path / "keys.toml", OLD))
    assert "secret" not in repr(key)
    assert repr(bytes(range(8)))[2:-1] not in repr(key)


def test_generated_key_is_accepted(tmp_path, capsys, clock):
    from streamer.security.__main__ import main  # noqa: PLC0415

    assert main(["key"]) == 0
    path = write(tmp_path / "keys.toml", capsys.readouterr().out)
    sealer = Sealer(Keys(path), 300.0, clock)
    assert sealer.open(sealer.seal(b"content")).content == b"content"
