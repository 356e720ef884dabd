"""OpenTelemetry collector that stores its requests, and calls that it receives."""

import contextlib
import threading
import time
from concurrent import futures

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from streamer.audio.codec import SAMPLE_RATE

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
"""The example of W3C Trace Context."""
CHUNK = 2 * SAMPLE_RATE // 10


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Keeps what it gets."""

    def __init__(self):
        self.requests = []
        self._came = threading.Condition()

    def Export(self, request, _):  # noqa: N802 - OTLP's name
        with self._came:
            self.requests.append(request)
            self._came.notify_all()
        return trace_service_pb2.ExportTraceServiceResponse()

    @property
    def spans(self):
        return [
            span
            for request in self.requests
            for of_resource in request.resource_spans
            for of_scope in of_resource.scope_spans
            for span in of_scope.spans
        ]

    def of(self, call_id):
        """Spans of a call that came so far."""
        return [s for s in self.spans if attributes(s).get("voicecohort.call.id") == call_id]

    def span(self, call_id):
        """Wait for the one span of a call."""
        with self._came:
            assert self._came.wait_for(lambda: self.of(call_id), timeout=30), "no span came"
            (span,) = self.of(call_id)
        return span


class Hanging(Collector):
    """Answers when the other side has given up."""

    def Export(self, request, context):  # noqa: ARG002, N802
        over = threading.Event()
        context.add_callback(over.set)
        over.wait(60)


def attributes(thing):
    """Values of a span, event or resource by name."""
    values = {}
    for pair in thing.attributes:
        value = getattr(pair.value, pair.value.WhichOneof("value"))
        if pair.value.HasField("array_value"):
            value = [getattr(each, each.WhichOneof("value")) for each in value.values]
        values[pair.key] = value
    return values


@contextlib.contextmanager
def collecting(collector):
    """Let it listen; its address."""
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()


def flags(endpoint, *more):
    return "--otlp-endpoint", endpoint, "--otlp-insecure", *more


def pieces_of(call, request_of):
    """A two-channel call's audio messages, 100 ms each."""
    return [
        request_of.audio(n, call.data[start : start + CHUNK])
        for n, start in enumerate(range(0, len(call.data) // CHUNK * CHUNK, CHUNK), start=1)
    ]


def run(line, *requests, **metadata):
    """A whole call with metadata; its responses and status. A busy machine may ask to wait."""
    for _ in range(60):
        stream = line.method(iter(requests), metadata=tuple(metadata.items()), timeout=60)
        responses = []
        with contextlib.suppress(grpc.RpcError):
            responses.extend(stream)
        if stream.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            break
        time.sleep(0.5)
    return responses, stream.code()


def parent(trace=TRACE, sampled="01"):
    return f"00-{trace}-{PARENT}-{sampled}"
