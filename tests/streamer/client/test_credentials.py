import pytest

from streamer.client import Client
from streamer.client.credentials import bearer, read_token


def test_a_token_is_a_header():
    assert bearer("abc") == (("authorization", "Bearer abc"),)
    assert bearer("") == ()


@pytest.mark.parametrize("token", ["geheim\n", "ge heim", "gehäim"])
def test_invalid_token_is_refused_and_not_repeated(token):
    with pytest.raises(ValueError, match="printable ASCII") as caught:
        Client("127.0.0.1:1", token=token)
    assert "heim" not in str(caught.value)


def test_token_from_file_else_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("VOICECOHORT_TOKEN", raising=False)
    file = tmp_path / "token"
    file.write_text(" abc\n")
    assert read_token(None) == ""
    monkeypatch.setenv("VOICECOHORT_TOKEN", "def\n")
    assert (read_token(None), read_token(file)) == ("def", "abc")


def test_error_names_a_file_without_token(tmp_path):
    file = tmp_path / "token"
    with pytest.raises(ValueError, match=r"token: No such file"):
        read_token(file)
    file.write_text("\n")
    with pytest.raises(ValueError, match=r"token: holds no token"):
        read_token(file)
    file.write_bytes(b"\xff")
    with pytest.raises(ValueError, match=r"token: not ASCII"):
        read_token(file)
