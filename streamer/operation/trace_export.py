"""Sends the spans of calls to an OpenTelemetry collector, if its packages are installed.

OpenTelemetry is an extra (``voicecohort[tracing]``): it is imported when spans are asked for, by
:mod:`streamer.operation.spans` alone.
"""

from __future__ import annotations

from collections.abc import Callable

from streamer.operation.tracing import Tracing


class TracingError(RuntimeError):
    """Spans are asked for and cannot be made; one line."""


def tracing_to(
    endpoint: str, *, insecure: bool, ratio: float, exported: Callable[[int, str], None]
) -> Tracing:
    """Tracing to an OpenTelemetry collector.

    Args:
        endpoint: HOST:PORT of its OTLP over gRPC; empty for no tracing.
        insecure: plaintext instead of TLS.
        ratio: share of the calls without a traced caller that are traced, 0 to 1.
        exported: told how many spans were "sent" or "lost"; on a thread of its own.

    Raises:
        TracingError: the packages are not installed.
    """
    if not endpoint:
        return Tracing()
    try:
        from streamer.operation.spans import Spans  # noqa: PLC0415 - an extra, and it costs
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        raise TracingError(
            f"otlp_endpoint {endpoint}: tracing needs packages that are not installed: "
            f"pip install 'voicecohort[tracing]' ({error})"
        ) from error
    return Spans(endpoint, insecure=insecure, ratio=ratio, exported=exported)
