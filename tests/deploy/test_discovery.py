"""Replicas that come and go in the DNS, as in Kubernetes: the cluster as it is shipped, by name."""

import socket
import struct
import threading
import time

import grpc
import pytest

from streamer.audio.codec import Encoding, encode

RATE = 8000
NAME = b"\x14voicecohort-replicas\x00"


class Nameserver:
    """Answers for one name with the addresses given (RFC 1035)."""

    def __init__(self):
        self.addresses = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self):
        with self._socket:
            while query := (received := self._socket.recvfrom(512))[0]:
                self._socket.sendto(self._answer(query), received[1])

    def _answer(self, query):
        end = query.index(b"\0", 12) + 5  # name, type, class
        (kind,) = struct.unpack("!H", query[end - 4 : end - 2])
        known = query[12 : end - 4].lower() == NAME
        addresses = self.addresses if known and kind == 1 else []
        flags = 0x8580 if known else 0x8583
        header = query[:2] + struct.pack("!HHHHH", flags, 1, len(addresses), 0, 0)
        records = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            for address in addresses
        )
        return header + query[12:end] + records

    def close(self):
        """An empty query ends it."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join()


@pytest.fixture
def nameserver():
    server = Nameserver()
    yield server
    server.close()


@pytest.fixture
def call(make_line, request_of, voices):
    """Open some calls; a function that sends the rest and gives how they ended."""
    data = encode(voices.caller[5 * RATE : 7 * RATE], Encoding.MULAW)
    chunks = [request_of.audio(n, data[n * 800 : n * 800 + 800]) for n in range(20)]

    def open_(target, name, count):
        here = make_line(target)
        calls = []
        for number in range(count):
            while True:
                opened = here.open(request_of.config(call_id=f"{name}-{number}"), *chunks[:5])
                try:
                    assert opened.read().HasField("started")
                    break
                except grpc.RpcError as error:  # this machine is busy
                    if not error.details().startswith("the server is full"):
                        raise
                    time.sleep(0.2)
            calls.append(opened)

        def finish():
            for opened in calls:
                opened.send(*chunks[5:])
                opened.half_close()
            return {opened.outcome().code for opened in calls}

        return finish

    return open_


def test_replicas_come_and_go_by_name(make_replica, make_envoy, nameserver, call, until):
    first = make_replica("--drain-seconds", "25")
    port = first.target.rpartition(":")[2]
    second = make_replica(target=f"127.0.0.2:{port}")
    nameserver.addresses = ["127.0.0.1"]
    envoy = make_envoy([first.target], nameserver=nameserver.port)
    envoy.wait_healthy()
    old = call(envoy.target, "old", 3)
    until(lambda: len(first.started_calls()) == 3, "the calls in its log")

    nameserver.addresses = ["127.0.0.1", "127.0.0.2"]
    until(lambda: envoy.known() == {first.target: set(), second.target: set()}, "the new replica")
    new = call(envoy.target, "new", 12)
    until(lambda: len(first.started_calls()) + len(second.started_calls()) == 15, "the calls")
    assert len(second.started_calls()) >= 4

    # Kubernetes takes a pod that ends out of the DNS, and sends SIGTERM, in no certain order.
    nameserver.addresses = ["127.0.0.2"]
    first.terminate()
    later = call(envoy.target, "later", 12)
    until(lambda: envoy.known() == {second.target: set()}, "the old one to be forgotten")
    assert first.server.process.poll() is None, "it still has calls"
    last = call(envoy.target, "last", 2)
    for finish in (old, new, later, last):
        assert finish() == {grpc.StatusCode.OK}
    assert first.wait() == 0
