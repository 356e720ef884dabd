"""Who calls, from what gRPC knows of a stream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamer.errors import PermissionDenied, Unauthenticated
from streamer.security.identity import ALL_SCOPES, Caller, Identities
from streamer.security.tokens import Tokens, digest, new_secret

SECRET, RESUMES = new_secret(), new_secret()


class Stream:
    def __init__(self, peer="ipv4:192.0.2.1:4711", metadata=(), **properties):
        self._peer, self._metadata, self._properties = peer, metadata, properties

    def peer(self):
        return self._peer

    def invocation_metadata(self):
        return self._metadata

    def auth_context(self):
        return self._properties


@pytest.fixture(scope="module")
def identities(tmp_path_factory):
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(
        f'[[token]]\nidentity="berlin"\nsha256="{digest(SECRET)}"\n'
        f'scopes=["classify"]\nmax_calls=7\n'
        f'[[token]]\nidentity="oslo"\nsha256="{digest(RESUMES)}"\nscopes=["resume"]\n'
    )
    return Identities(Tokens(file))


@pytest.mark.parametrize(
    ("peer", "identity"),
    [
        ("ipv4:192.0.2.1:4711", "192.0.2.1"),
        ("ipv6:%5B2001:db8::1%5D:4711", "2001:db8::1"),
        ("ipv6:[::1]:4711", "::1"),
        ("unix:/run/voicecohort.sock", "unix"),
        ("unix:", "unix"),
    ],
)
def test_identity_is_the_address_by_default(peer, identity):
    caller = Identities().caller(Stream(peer, transport_security_type=[b"ssl"]))
    assert caller == Caller(identity, ALL_SCOPES, None, proven=False)


@pytest.mark.parametrize(
    ("properties", "identity"),
    [
        (
            {
                "x509_subject_alternative_name": [b"10.0.0.9", b"gw.example", b"spiffe://x/y"],
                "peer_dns": [b"gw.example"],
                "peer_uri": [b"spiffe://x/y"],
                "x509_common_name": [b"common"],
            },
            "gw.example",
        ),
        (
            {
                "x509_subject_alternative_name": [b"spiffe://x/y", b"gw.example"],
                "peer_dns": [b"gw.example"],
                "peer_uri": [b"spiffe://x/y"],
            },
            "spiffe://x/y",
        ),
        (
            {"x509_subject_alternative_name": [b"10.0.0.9"], "x509_common_name": [b"common"]},
            "common",
        ),
        ({"x509_common_name": [b"\xff" * 1000]}, "\ufffd" * 256),
    ],
)
def test_identity_of_a_certificate(properties, identity):
    assert Identities().caller(Stream(**properties)).identity == identity


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_token_takes_precedence(identities, scheme):
    metadata = [("user-agent", "x"), ("authorization", f"{scheme} {SECRET}")]
    stream = Stream(metadata=metadata, x509_common_name=[b"other"])
    assert identities.caller(stream) == Caller("berlin", frozenset({"classify"}), 7)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "token_missing"),
        ([""], "token_missing"),
        (["Bearer"], "token_missing"),
        (["Bearer "], "token_missing"),
        ([SECRET], "token_missing"),
        ([f"Basic {SECRET}"], "token_missing"),
        ([f"Bearer {SECRET}", f"Bearer {SECRET}"], "token_missing"),
        ([f"Bearer {SECRET}x"], "token_unknown"),
        ([f"Bearer {SECRET} {SECRET}"], "token_unknown"),
        ([f"Bearer {digest(SECRET)}"], "token_unknown"),
        ([b"Bearer \xff"], "token_missing"),
    ],
)
def test_refusal_does_not_repeat_the_token(identities, values, reason):
    with pytest.raises(Unauthenticated) as caught:
        identities.caller(Stream(metadata=[("authorization", value) for value in values]))
    assert caught.value.reason == reason
    assert SECRET not in str(caught.value)


@given(st.lists(st.tuples(st.sampled_from(["authorization", "x"]), st.text() | st.binary())))
def test_any_headers_give_a_status(identities, metadata):
    with pytest.raises(Unauthenticated):
        identities.caller(Stream(metadata=metadata))


def test_scope_resume_opens_no_call(identities):
    with pytest.raises(PermissionDenied) as caught:
        identities.caller(Stream(metadata=[("authorization", f"Bearer {RESUMES}")]))
    assert str(caught.value) == "authorization: the token lacks the scope 'classify'"
    assert (caught.value.status, caught.value.reason) == ("PERMISSION_DENIED", "scope")
