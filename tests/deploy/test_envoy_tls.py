"""The shipped envoy-tls.yaml in the real Envoy: TLS from gateways, mutual TLS to the servers."""

import copy
import itertools

import grpc
import pytest
import trustme
import yaml

from streamer.rpc import voicecohort_pb2_grpc as pb_grpc

Code = grpc.StatusCode


class Office:
    """An authority and what it issues, put into place as Kubernetes mounts a secret."""

    def __init__(self):
        self.authority = trustme.CA()
        self._serial = itertools.count()

    @property
    def ca(self):
        return self.authority.cert_pem.bytes()

    def issue(self, folder, *names):
        """Every file is a link into the folder ..data, itself a link, which is replaced."""
        version = folder / f"..{id(self)}-{next(self._serial)}"
        version.mkdir(parents=True)
        leaf = self.authority.issue_cert(*names)
        for name, blob in (
            ("tls.crt", b"".join(pem.bytes() for pem in leaf.cert_chain_pems)),
            ("tls.key", leaf.private_key_pem.bytes()),
            ("ca.crt", self.ca),
        ):
            (version / name).write_bytes(blob)
            if not (folder / name).is_symlink():
                (folder / name).symlink_to(f"..data/{name}")
        (folder / "..data_tmp").symlink_to(version.name)
        (folder / "..data_tmp").replace(folder / "..data")
        return folder


@pytest.fixture
def offices():
    """Of the front, and of the back."""
    return Office(), Office()


@pytest.fixture
def start(make_fleet, deploy, tmp_path, offices):
    """A replica behind Envoy, all with certificates; the replica's are for some name."""

    def start_(name, **options):
        front, back = offices
        front.issue(tmp_path / "front", "127.0.0.1")
        back.issue(tmp_path / "back", "envoy.example")
        own = back.issue(tmp_path / "server", name)
        flags = ("--tls-certificate", own / "tls.crt", "--tls-key", own / "tls.key")
        flags += ("--tls-client-ca", own / "ca.crt")
        file = deploy / "envoy-tls.yaml"
        return make_fleet(1, *map(str, flags), file=file, secrets=tmp_path, **options)

    return start_


@pytest.fixture
def one_call(request_of):
    """Whether a call gets through, trusting an authority."""

    def call(target, ca):
        credentials = grpc.ssl_channel_credentials(ca)
        options = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.secure_channel(target, credentials, options) as channel:
            requests = iter([request_of.config(), request_of.audio(1, bytes([255]) * 800)])
            stream = pb_grpc.ClassifierServiceStub(channel).StreamClassify(requests, timeout=20)
            try:
                return list(stream)[-1].prediction.final
            except grpc.RpcError as error:
                # A busy machine refuses calls, through TLS as without.
                return error.details().startswith("the server is full")

    return call


def test_calls_survive_a_renewed_certificate(
    start, one_call, offices, tmp_path, until, make_line, request_of
):
    fleet = start("voicecohort-replicas")
    front, back = offices
    assert one_call(fleet.target, front.ca)
    assert not one_call(fleet.target, back.ca)
    assert make_line(fleet.target).run(request_of.config()).code is Code.UNAVAILABLE, "plaintext"

    new = Office()
    new.issue(tmp_path / "front", "127.0.0.1")
    until(lambda: one_call(fleet.target, new.ca), "the new certificate")
    assert not one_call(fleet.target, front.ca)


def test_wrong_certificate_gets_no_call(start, one_call, offices):
    fleet = start("something-else", wait=False)
    assert "failed_active_health_check" in fleet.ill()[0]
    assert not one_call(fleet.target, offices[0].ca)
    assert fleet.envoy.stats("cluster.replicas.ssl.")["fail_verify_san"] > 0


def test_the_two_configurations_differ_in_tls_and_addresses_only(deploy):
    plain, secure = (
        yaml.safe_load((deploy / name).read_text()) for name in ("envoy.yaml", "envoy-tls.yaml")
    )
    stripped = copy.deepcopy(secure)
    for config in (plain, stripped):
        for listener in config["static_resources"]["listeners"]:
            del listener["address"]
    (chain,) = stripped["static_resources"]["listeners"][0]["filter_chains"]
    assert chain.pop("transport_socket_connect_timeout")
    assert chain.pop("transport_socket")
    assert stripped["static_resources"]["clusters"][0].pop("transport_socket")
    assert stripped == plain


@pytest.mark.parametrize("name", ["envoy.yaml", "envoy-tls.yaml"])
def test_admin_listens_on_loopback_alone(deploy, name):
    config = yaml.safe_load((deploy / name).read_text())
    assert config["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"
    if name == "envoy.yaml":  # plaintext beyond loopback is the operator's own decision
        for listener in config["static_resources"]["listeners"]:
            assert listener["address"]["socket_address"]["address"] == "127.0.0.1"
