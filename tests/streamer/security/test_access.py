"""Who gets in, on real servers: each refusal has its status, is counted, and is logged without
secrets."""

import asyncio
import contextlib
import datetime as dt
import json
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from streamer.client import Client, tls
from streamer.process.local_server import local_server
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.security.tokens import digest, new_secret
from tests.streamer.security.test_tls import Office

Code = grpc.StatusCode
SILENCE = bytes([0xFF]) * 800
NAMES = ("berlin", "oslo", "resumer", "old", "plain", "stranger")
SECRETS = {name: new_secret() for name in NAMES}


def entry(name, secret=None, scopes='["classify", "resume"]', more=""):
    secret = secret or SECRETS[name]
    return (
        f'[[token]]\nidentity = "{name}"\nsha256 = "{digest(secret)}"\nscopes = {scopes}\n{more}\n'
    )


def write(file, *entries):
    fresh = file.with_suffix(".new")
    fresh.write_text("".join(entries))
    fresh.replace(file)


def scrape(server):
    """Value by name, status and reason."""
    (address,) = (e["metrics"] for e in server.log if e["event"] == "serving")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=10) as answer:
        text = answer.read().decode()
    return {
        (sample.name, sample.labels["status"], sample.labels["reason"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if "reason" in sample.labels and not sample.name.endswith("_created")
    }


def refusals(server, status, reason):
    return scrape(server).get(("voicecohort_refusals_total", status, reason), 0)


@contextlib.contextmanager
def counted(server, status, reason):
    """One refusal of this kind, and no other, happens within."""
    before = sum(scrape(server).values())
    mine = refusals(server, status, reason)
    yield
    until = time.monotonic() + 10
    while refusals(server, status, reason) == mine:
        assert time.monotonic() < until, f"{status} {reason} is not counted"
        time.sleep(0.05)
    assert refusals(server, status, reason) == mine + 1
    assert sum(scrape(server).values()) == before + 1


def bearer(secret):
    return (("authorization", f"Bearer {secret}"),)


def short_call(target, metadata=None, credentials=None, **config):
    """Status of a call of one message.

    By gRPC's other client: the one for asyncio makes INTERNAL of a refusal that meets a write.
    """
    good = {"encoding": pb.AUDIO_ENCODING_MULAW, "sample_rate": 8000}
    requests = [
        pb.StreamClassifyRequest(config=pb.StreamConfig(**(good | config))),
        pb.StreamClassifyRequest(audio=pb.Audio(sequence=1, data=SILENCE)),
    ]
    with (
        grpc.secure_channel(target, credentials)
        if credentials
        else grpc.insecure_channel(target) as channel
    ):
        stub = pb_grpc.ClassifierServiceStub(channel)
        stream = stub.StreamClassify(iter(requests), metadata=metadata, timeout=20)
        with contextlib.suppress(grpc.RpcError):
            list(stream)
        return stream.code(), stream.details()


async def outcome(target, metadata=None, **config):
    """The same, while other things go on."""
    return await asyncio.to_thread(short_call, target, metadata, **config)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server that asks for tokens, and the file that they are in."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    write(
        file,
        entry("berlin"),
        entry("oslo", more="max_calls = 3"),
        entry("resumer", scopes='["resume"]'),
        entry("plain", scopes='["classify"]'),
        entry("old", more="expires = 2020-01-01T00:00:00Z"),
    )
    flags = ("--tokens", str(file), "--metrics-listen", "127.0.0.1:0")
    with local_server(*flags, "--max-calls-per-identity", "1") as server:
        yield SimpleNamespace(server=server, file=file, target=server.target)
        output = json.dumps(server.log)
        for secret in SECRETS.values():
            assert secret not in output
            assert digest(secret) not in output


REFUSED = {
    "none": (None, "UNAUTHENTICATED", "token_missing", "authorization: missing; send `Bearer T"),
    "of another scheme": (
        (("authorization", f"Basic {SECRETS['berlin']}"),),
        "UNAUTHENTICATED",
        "token_missing",
        "authorization: must be one `Bearer TOKEN`",
    ),
    "unknown": (
        bearer(SECRETS["stranger"]),
        "UNAUTHENTICATED",
        "token_unknown",
        "authorization: the token is not known here",
    ),
    "hash of a good one": (
        bearer(digest(SECRETS["berlin"])),
        "UNAUTHENTICATED",
        "token_unknown",
        "authorization: the token is not known here",
    ),
    "expired": (
        bearer(SECRETS["old"]),
        "UNAUTHENTICATED",
        "token_expired",
        "authorization: the token has expired",
    ),
    "for resuming alone": (
        bearer(SECRETS["resumer"]),
        "PERMISSION_DENIED",
        "scope",
        "authorization: the token lacks the scope 'classify'",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_invalid_tokens_are_refused(guarded, log_entry, name):
    metadata, status, reason, output = REFUSED[name]
    with counted(guarded.server, status, reason):
        code, details = short_call(guarded.target, metadata)
    assert code.name == status
    assert details.startswith(output)
    line = log_entry(
        guarded.server, "call_refused", status=status, reason_code=reason, reason=details
    )
    assert line["peer"].startswith("ipv4:127.0.0.1:")


@pytest.mark.parametrize(
    "config", [{"checkpoint_interval": Duration(seconds=5)}, {"resume_from": b"x"}]
)
def test_checkpoints_need_a_scope_of_their_own(guarded, log_entry, config):
    with counted(guarded.server, "PERMISSION_DENIED", "scope"):
        code, details = short_call(guarded.target, bearer(SECRETS["plain"]), **config)
    assert code is Code.PERMISSION_DENIED
    assert details == "authorization: the token lacks the scope 'resume'"
    log_entry(guarded.server, "call_refused", identity="plain", reason_code="scope")
    code, _ = short_call(guarded.target, bearer(SECRETS["berlin"]), **config)
    assert code is not Code.PERMISSION_DENIED


def test_valid_token_is_accepted_and_logged(guarded, log_entry):
    code, _ = short_call(guarded.target, bearer(SECRETS["plain"]), call_id="named")
    assert code is Code.OK
    for event in ("call_started", "call_ended"):
        assert log_entry(guarded.server, event, call_id="named")["identity"] == "plain"


def test_limit_per_identity(guarded, run_async, log_entry):
    """berlin has the server's one, oslo three by its own token."""

    async def scenario():
        async with contextlib.AsyncExitStack() as stack:

            async def call(name):
                client = Client(guarded.target, token=SECRETS[name])
                await stack.enter_async_context(client)
                return await stack.enter_async_context(client.call())

            held = [await call("berlin")] + [await call("oslo") for _ in range(3)]
            for name, count, most in (("berlin", 2, 1), ("oslo", 4, 3)):
                with counted(guarded.server, "RESOURCE_EXHAUSTED", "identity_calls"):
                    code, details = await outcome(guarded.target, bearer(SECRETS[name]))
                assert code is Code.RESOURCE_EXHAUSTED
                assert details == f"calls of {name}: {count} exceeds the limit of {most}"
                log_entry(
                    guarded.server, "call_refused", identity=name, reason_code="identity_calls"
                )
            assert (await outcome(guarded.target, bearer(SECRETS["plain"])))[0] is Code.OK
            for each in held:
                assert (await each.finish())[0].final
        for name in ("berlin", "oslo"):
            assert (await outcome(guarded.target, bearer(SECRETS[name])))[0] is Code.OK

    run_async(scenario())


def test_probes_need_no_token_and_reflection_is_off(guarded, make_line):
    channel = make_line(guarded.target).channel
    health = health_pb2_grpc.HealthStub(channel)
    status = health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
    assert status == health_pb2.HealthCheckResponse.SERVING
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        list(stub.ServerReflectionInfo(iter([ask]), metadata=bearer(SECRETS["berlin"]), timeout=10))
    assert caught.value.code() is Code.UNIMPLEMENTED


def test_client_command_sends_a_token(guarded, demo_file, tmp_path, monkeypatch):
    def client(*flags):
        command = [sys.executable, "-m", "streamer.client", str(demo_file), "--json", "--target"]
        return subprocess.run(
            [*command, guarded.target, *flags],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    token = tmp_path / "token"
    token.write_text(SECRETS["plain"] + "\n")
    done = client("--token-file", str(token))
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("VOICECOHORT_TOKEN", SECRETS["plain"])
    assert client().returncode == 0
    monkeypatch.setenv("VOICECOHORT_TOKEN", SECRETS["stranger"])
    done = client()
    assert done.returncode == 1
    assert "UNAUTHENTICATED: authorization: the token is not known here" in done.stderr
    assert SECRETS["stranger"] not in done.stderr
    assert client("--token-file", "/nowhere/token").returncode == 2


# --- what changes while calls run ---

CALLS = 12


async def talk(call, stop):
    """Send until stopped; the final prediction's audio and what was sent, in seconds."""
    sent = 0
    while not stop.is_set():
        await call.send(SILENCE)
        sent += 1
        await asyncio.sleep(0.02)
    (final,) = await call.finish()
    return final.audio_time, pytest.approx(sent * 0.1)


@contextlib.asynccontextmanager
async def under_load(target, credentials=None, token=""):
    """A dozen calls go on meanwhile, and all of them end well."""
    stop = asyncio.Event()
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client(target, credentials, token))
        calls = [await stack.enter_async_context(client.call()) for _ in range(CALLS)]
        talking = [asyncio.create_task(talk(call, stop)) for call in calls]
        yield
        assert not any(task.done() for task in talking), "a call was disturbed"
        stop.set()
        for received, sent in await asyncio.gather(*talking):
            assert received == sent


def test_tokens_are_rotated_under_load(tmp_path, run_async, log_entry):
    file = tmp_path / "tokens.toml"
    old, new = new_secret(), new_secret()
    write(file, entry("berlin", old))

    async def scenario(server):
        async def status(secret):
            return (await outcome(server.target, bearer(secret)))[0]

        async with under_load(server.target, token=old):
            write(file, entry("berlin", old), entry("berlin", new))
            assert [await status(s) for s in (old, new)] == [Code.OK, Code.OK]
            for broken in ("", "[[token]", entry("berlin", new).replace("sha256", "sha")):
                write(file, broken)
                assert [await status(s) for s in (old, new)] == [Code.OK, Code.OK]
            write(file, entry("berlin", new))
            assert [await status(s) for s in (old, new)] == [Code.UNAUTHENTICATED, Code.OK]
        assert await status(old) is Code.UNAUTHENTICATED

    def nobody_calls(server):
        """The operator who replaces the file sees all the same that it is good, or is not."""
        write(file, entry("berlin"), entry("oslo"), entry("plain"))
        log_entry(server, "tokens_changed", tokens=3)

    with local_server("--tokens", str(file)) as server:
        run_async(scenario(server))
        nobody_calls(server)
        kept = [e["reason"] for e in server.log if e["event"] == "tokens_reload_failed"]
        assert len(kept) == 3
        assert all(reason.startswith(f"tokens {file}: ") for reason in kept)
        assert kept[2].endswith("token 1: sha256: Field required")
        output = json.dumps(server.log)
        assert not any(s in output or digest(s) in output for s in (old, new))


@pytest.fixture
def office(tmp_path):
    return Office(tmp_path)


@pytest.fixture
def other(tmp_path):
    (tmp_path / "other").mkdir()
    return Office(tmp_path / "other")


def test_certificates_are_rotated_under_load(office, other, tmp_path, run_async):
    certificate, key = office.issue("server")

    async def works(server, credentials):
        try:
            async with Client(server.target, credentials) as client, client.call() as call:
                return (await call.finish())[0].final
        except grpc.aio.AioRpcError:
            return False

    async def scenario(server):
        old, new = tls(office.ca), tls(other.ca)
        async with under_load(server.target, old):
            for name, path in zip(("server.pem", "server.key"), other.issue("server"), strict=True):
                path.replace(tmp_path / name)
            assert await works(server, new)
            assert not await works(server, old)
            certificate.write_text("no certificate")
            assert await works(server, new)
        assert not await works(server, old)

    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key))
    with local_server(*flags) as server:
        run_async(scenario(server))


# --- connections that never become streams ---


@pytest.fixture
def mutual(office):
    """A server that asks for certificates."""
    certificate, key = office.issue("server")
    with local_server(
        *("--tls-certificate", str(certificate), "--tls-key", str(key)),
        *("--tls-client-ca", str(office.ca), "--metrics-listen", "127.0.0.1:0"),
    ) as server:
        yield server
    assert all("event" in line for line in server.log)


def test_failed_handshakes_are_counted_and_logged(mutual, office, other, log_entry):
    past = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    expired = office.issue("expired", not_before=past, not_after=past + dt.timedelta(days=1))
    tries = {
        "peer_did_not_return_a_certificate": tls(office.ca),
        "certificate_verify_failed: certificate has expired": tls(office.ca, *expired),
        "certificate_verify_failed: unable to get local issuer certificate": tls(
            office.ca, *other.issue("foreign")
        ),
        "wrong_version_number": None,
    }
    for reason, credentials in tries.items():
        before = refusals(mutual, "UNAVAILABLE", "handshake")
        code, _ = short_call(mutual.target, bearer(SECRETS["berlin"]), credentials)
        assert code is Code.UNAVAILABLE, reason
        log_entry(mutual, "handshake_failed", reason=reason)
        assert refusals(mutual, "UNAVAILABLE", "handshake") > before
    mine = tls(office.ca, *office.issue("client"))
    code, _ = short_call(mutual.target, None, mine, call_id="c")
    assert code is Code.OK
    name = log_entry(mutual, "call_ended", call_id="c")["identity"]
    assert name == "localhost", "the DNS name of its certificate"
    assert SECRETS["berlin"] not in json.dumps(mutual.log)


# --- what does not start ---


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "streamer.serve", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_check_refuses_unusable_tokens(tmp_path):
    good, bad = tmp_path / "good.toml", tmp_path / "bad.toml"
    write(good, entry("berlin"))
    write(bad, entry("berlin", scopes='["all"]'))
    listen = ("--listen", "127.0.0.1:0", "--tokens")
    with ThreadPoolExecutor(2) as pool:
        passed = pool.submit(start, "--check", *listen, good)
        failed = [pool.submit(start, *f, *listen, bad) for f in (["--check"], ["--workers", "2"])]
    assert passed.result().returncode == 0
    for done in (run.result() for run in failed):
        assert (done.returncode, done.stdout) == (2, "")
        output = done.stderr.splitlines()
        begin = f"tokens {bad}: token 1: scopes.0: Input should be 'classify' or 'resume'"
        assert any(line.startswith(begin) for line in output)


def test_plaintext_tokens_need_insecure(guarded, log_entry):
    done = start("--listen", "0.0.0.0:0", "--tokens", guarded.file)
    assert done.returncode == 2
    assert "insecure on a network that you trust, where tokens travel in clear" in done.stderr
    flags = ("--listen", "0.0.0.0:0", "--tokens", str(guarded.file), "--insecure")
    with local_server(*flags) as server:
        log_entry(server, "tokens_in_clear")
    assert "tokens_in_clear" not in {line["event"] for line in guarded.server.log}
