"""End a call: time limits, final predictions, its status and its line in the log."""

from __future__ import annotations

import asyncio

import structlog

from streamer.call.call import Call
from streamer.call.overload import RETRY_SECONDS
from streamer.errors import (
    CallError,
    CallTooLong,
    IdleTimeout,
    LagExceeded,
    ReadTimeout,
    ServerFault,
)
from streamer.settings import ServerSettings

log = structlog.get_logger()


def enforce_time_limits(settings: ServerSettings, call: Call, now: float) -> None:
    """End a call that exceeds a limit of time; to be called once a second.

    A call that is not read any more may still wait: for inference of its final predictions, then
    for its gateway to read them. Both are limited too.

    Args:
        settings: the limits.
        call: running, or ending.
        now: seconds, monotonic, of the call's own clock.
    """
    lag = call.lag(now)
    if lag > settings.max_lag_seconds and not call.ahead(now):
        error = LagExceeded(lag, settings.max_lag_seconds, RETRY_SECONDS)
        if call.reading_stopped_at is None:
            call.stop(error)
        else:
            call.abort_wait(error)
    elif call.reading_stopped_at is not None:
        if now - call.reading_stopped_at > settings.idle_timeout:
            late = LagExceeded(lag, settings.max_lag_seconds, RETRY_SECONDS)
            call.abort_wait(late if lag else ReadTimeout(settings.idle_timeout))
    elif now - call.last_message > settings.idle_timeout:
        call.stop(IdleTimeout(settings.idle_timeout))
    elif now - call.started_at > settings.max_call_seconds:
        call.stop(CallTooLong(settings.max_call_seconds))


async def conclude(
    call: Call, writer: asyncio.Task[None], error: CallError | None
) -> CallError | None:
    """Send a call's last responses, with final predictions if its end allows for them.

    Args:
        call: of which nothing more is read.
        writer: sends its responses.
        error: why it ends; None for a half-close or a `finish`.

    Returns:
        The same, or what went wrong meanwhile.

    Raises:
        Exception: the stream itself broke, or a response could not be made.
    """
    call.stop_reading()
    try:
        if error is None or error.finals:
            error = await _finish(call) or error
    finally:
        call.close()
    call.close_responses()
    # A gateway that does not read must not hold the call for ever.
    await asyncio.wait((writer, call.wait_aborted), return_when=asyncio.FIRST_COMPLETED)
    if not writer.done():
        return error or call.wait_aborted.result()
    writer.result()
    return error


async def _finish(call: Call) -> CallError | None:
    finishing = asyncio.create_task(call.finish())
    try:
        await asyncio.wait((finishing, call.wait_aborted), return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            return call.wait_aborted.result()
        finishing.result()
    except CallError as raised:
        return raised
    except Exception as raised:  # noqa: BLE001 - becomes the call's status
        return server_fault(call, raised)
    finally:
        finishing.cancel()
    return None


def server_fault(call: Call | None, error: Exception) -> ServerFault:
    """Log an unexpected exception with its traceback; returns the status that it becomes.

    To be used before a call's writer is cancelled: gRPC sends no status while a write is under way.
    """
    log.error("call_exception", call_id=call.config.call_id if call else "", exc_info=error)
    return ServerFault(error)


def log_error(call: Call | None, error: CallError, *, identity: str, peer: str) -> None:
    """Log a call that failed, or a stream that never became one.

    Args:
        call: None for a stream.
        error: why.
        identity: of the caller, empty if unknown.
        peer: its address, which is logged if there is no identity.
    """
    if call is None:
        caller = {"identity": identity} if identity else {"peer": peer}
        log.info(
            "call_refused",
            status=error.status,
            reason_code=error.reason,
            reason=str(error),
            **caller,
        )
    else:
        log.info("call_failed", call_id=call.config.call_id, reason=str(error))


def log_end(call: Call, status: str, reason_code: str) -> None:
    """Log a call that ended, well or not: its status, and the word that metrics count it by."""
    session = call.session
    log.info(
        "call_ended",
        call_id=call.config.call_id,
        identity=call.identity,
        status=status,
        reason_code=reason_code,
        messages=call.messages,
        audio_seconds=round(session.audio_seconds, 3),
        speech_seconds=round(session.speech_seconds, 3),
        lost_seconds=round(session.lost_seconds, 3),
        duplicates=session.duplicates,
    )
