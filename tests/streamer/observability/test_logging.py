"""The log contains no audio, state or secret."""

import base64
import contextlib
import json
import re
import secrets

import grpc
import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from streamer.audio.codec import SAMPLE_RATE, Encoding, decode
from streamer.audio.speech_gate import speech_of
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb
from streamer.security.tokens import digest

CHUNK = SAMPLE_RATE // 10


def texts(entry):
    """All strings of a log line, keys included."""
    if isinstance(entry, dict):
        for key, value in entry.items():
            yield key
            yield from texts(value)
    elif isinstance(entry, list):
        for value in entry:
            yield from texts(value)
    else:
        yield str(entry)


def windows(data, width, count=60):
    """Distinctive pieces of bytes, spread over them."""
    starts = np.linspace(0, len(data) - width, count).astype(int)
    pieces = [data[start : start + width] for start in starts]
    return [piece for piece in pieces if len(set(piece)) > width // 2]


def traces_of(data):
    """What these bytes would look like in a log: as text, repr, hex, base64, list of numbers."""
    needles = set()
    for piece in windows(data, 12):
        needles |= {piece.decode("latin-1"), repr(piece)[2:-1], piece.hex(), piece.hex().upper()}
        needles |= {piece.hex(" "), ", ".join(map(str, piece)), " ".join(map(str, piece))}
    for piece in windows(data, 27):
        for shift in range(3):  # base64 depends on where its groups of three begin
            text = base64.b64encode(piece[shift : shift + 24])
            needles |= {
                text[:24].decode(),
                text[:24].translate(bytes.maketrans(b"+/", b"-_")).decode(),
            }
    return needles


def runs(values, length):
    """So many neighbours each, to four digits; of values that differ, so no silence."""
    rounded = [f"{value:.4g}" for value in values]
    every = (tuple(rounded[i : i + length]) for i in range(len(values) - length + 1))
    return {run for run in every if len(set(run)) > length // 2 + 1}


def numbers_found(values, lines):
    """Neighbouring numbers of an array, however they are printed; NumPy may show three."""
    length = 3 if values.dtype.kind == "f" else 6
    text = " ".join(text for line in lines for text in texts(line))
    printed = re.findall(r"(?<![\w.])[-+]?\d+\.?\d*(?:e[-+]?\d+)?", text)
    return runs([float(number) for number in printed], length) & runs(values, length)


def found(needles, lines):
    haystack = "\n".join(text for line in lines for text in texts(line))
    return [needle for needle in needles if needle in haystack]


@pytest.mark.parametrize(
    "leak",
    [
        lambda data: data.hex(),
        lambda data: data[1:].hex(),
        lambda data: base64.b64encode(data).decode(),
        lambda data: base64.b64encode(data[1:]).decode(),
        lambda data: base64.urlsafe_b64encode(data[2:]).decode(),
        repr,
        list,
        lambda data: str(np.frombuffer(data, np.uint8).tolist()),
        lambda data: data.decode("latin-1"),
    ],
)
def test_search_finds_leaks(leak):
    data = np.random.default_rng(1).bytes(800)
    text = leak(data)
    assert found(traces_of(data), [{"event": "e", "field": {"inner": [str(text)]}}])
    assert not found(traces_of(np.random.default_rng(2).bytes(800)), [{"field": str(text)}])


def test_search_finds_numbers():
    state = np.random.default_rng(3).standard_normal(5000).astype(np.float32)
    assert numbers_found(state, [{"state": str(state[7:].tolist())}])
    assert numbers_found(state, [{"state": state[99:106].tolist()}])
    assert numbers_found(state, [{"state": repr(state)}])
    assert not numbers_found(state, [{"state": str((state + 1).tolist())}])
    samples = (1000 * state).astype(np.int16)
    assert numbers_found(samples, [{"samples": str(samples[50:60])}])


@pytest.fixture(scope="module")
def receiver_log(tmp_path_factory, make_line, request_of, demo_call):
    """(log, forbidden content) of calls of every kind on a server at the lowest log level."""
    folder = tmp_path_factory.mktemp("secrets")
    token, key = secrets.token_urlsafe(32), base64.b64encode(secrets.token_bytes(32)).decode()
    (folder / "keys").write_text(f'[[key]]\nid = "k"\nsecret = "{key}"\n')
    (folder / "tokens").write_text(
        f'[[token]]\nidentity = "gateway"\nsha256 = "{digest(token)}"\n'
        'scopes = ["classify", "resume"]\n'
    )
    caller = demo_call.data[0::2]
    size = len(caller) // CHUNK * CHUNK
    chunks = [caller[start : start + CHUNK] for start in range(0, size, CHUNK)]
    audio = [request_of.audio(n, chunk) for n, chunk in enumerate(chunks, start=1)]
    config = {
        "call_id": "receiver_log",
        "speech_events": True,
        "checkpoint_interval": Duration(seconds=1),
    }
    bearer = (("authorization", f"Bearer {token}"),)
    flags = ("--checkpoint-keys", str(folder / "keys"), "--tokens", str(folder / "tokens"))
    checkpoints = []
    with local_server("--provider", "cpu", "--log-level", "debug", *flags) as server:
        line = make_line(server.target)

        def run(*requests, metadata=bearer, method=line.method):
            """Status of a call; keeps its checkpoints."""
            stream = method(iter(requests), metadata=metadata, timeout=60)
            with contextlib.suppress(grpc.RpcError):
                checkpoints.extend(
                    response.checkpoint.data
                    for response in stream
                    if response.HasField("checkpoint")
                )
            return stream.code().name

        def well(*requests):
            """A busy machine asks to wait."""
            for _ in range(100):
                if (status := run(*requests)) != "RESOURCE_EXHAUSTED":
                    break
            assert status == "OK"

        well(request_of.config(**config), *audio)
        well(
            request_of.config(
                **config | {"call_id": "linear", "encoding": pb.AUDIO_ENCODING_LINEAR16}
            ),
            *audio,
        )
        opened = request_of.config(**config)
        statuses = {
            "resumed": run(request_of.config(**config, resume_from=checkpoints[0]), *audio[-3:]),
            "forged": run(
                request_of.config(**config, resume_from=checkpoints[0][:-9] + caller[:9])
            ),
            "backwards": run(opened, audio[50], audio[20]),
            "long": run(opened, request_of.audio(1, caller[: 11 * SAMPLE_RATE])),
            "half a sample": run(
                request_of.config(encoding=pb.AUDIO_ENCODING_LINEAR16),
                request_of.audio(1, caller[:801]),
            ),
            "audio first": run(audio[30]),
            "audio as id": run(request_of.config(call_id=chunks[40].decode("latin-1"))),
            "no token": run(opened, metadata=()),
            "wrong token": run(opened, metadata=(("authorization", f"Bearer {token[:-3]}aaa"),)),
            "two configs": run(opened, audio[0], opened),
        }
        raw = line.channel.stream_stream(
            "/voicecohort.v1.ClassifierService/StreamClassify",
            response_deserializer=pb.StreamClassifyResponse.FromString,
        )
        statuses["undecodable"] = run(b"\x0a" + caller[:4000], method=raw)
        gone = line.method(iter([opened, *audio]), metadata=bearer)
        next(gone)
        gone.cancel()
    assert "OK" not in set(statuses.values()), statuses
    assert checkpoints
    log = [*server.log, *({"text": text} for text in server.other)]
    return log, {"audio": caller, "token": token, "key": key, "checkpoints": checkpoints}


def test_calls_of_every_kind_were_logged(receiver_log):
    events = [entry["event"] for entry in receiver_log[0] if "event" in entry]
    assert events.count("call_started") >= 6
    assert events.count("call_refused") >= 5
    assert events.count("call_failed") >= 4


def test_no_audio_is_logged(receiver_log):
    log, hidden = receiver_log
    audio = hidden["audio"]
    samples = decode(audio, Encoding.MULAW)
    assert len(traces_of(audio)) > 200
    assert not found(traces_of(audio), log)
    assert not found(traces_of(samples.tobytes()), log)
    assert len(runs(samples, 6)) > 10000
    assert not numbers_found(samples, log)
    assert not numbers_found(samples / np.float32(32768), log)


def test_no_state_and_no_checkpoint_is_logged(receiver_log, student):
    log, hidden = receiver_log
    meta = student.metadata
    block = meta.block
    speech = speech_of(decode(hidden["audio"], Encoding.MULAW))
    memory = meta.fresh(1)
    for number in range(20):
        piece = speech[None, number * block : (number + 1) * block] / np.float32(32768)
        _, memory = student.step(piece, np.array([block]), memory)
        for part in memory:
            assert not found(traces_of(part.tobytes()), log)
        assert not numbers_found(memory.state[0], log)
    for checkpoint in hidden["checkpoints"][:5]:
        assert not found(traces_of(checkpoint), log)


def test_no_secret_is_logged(receiver_log):
    log, hidden = receiver_log
    raw = json.dumps(log)
    for secret in (hidden["token"], hidden["key"], digest(hidden["token"])):
        assert secret not in raw
        assert secret[:16] not in raw
        assert secret[-16:] not in raw
