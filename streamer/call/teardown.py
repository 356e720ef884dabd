"""End a call: time limits, final predictions, its status and its line in the log."""

from __future__ import annotations

import asyncio

import structlog

from streamer.call.admission import Policy
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

log = structlog.get_logger()


async def conclude(
    call: Call, writer: asyncio.Task[None], error: CallError | None
) -> CallError | None:
    """Send a call's last responses, its final predictions among them if its end allows for them.

    Args:
        call: of which nothing more is read.
        writer: sends its responses.
        error: why it is over; None for a half-close or a `finish`.

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
    # A gateway that does not read cannot hold the call for ever.
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
        return unexpected(call, raised)
    finally:
        finishing.cancel()
    return None


def unexpected(call: Call | None, error: Exception) -> ServerFault:
    """What becomes of an exception that no one foresaw: a status, and a traceback in the log.

    To be used before a call's writer is cancelled: gRPC sends no status while a write is under way.
    """
    log.error("call_exception", call_id=call.config.call_id if call else "", exc_info=error)
    return ServerFault(error)


def log_error(call: Call | None, error: CallError, *, identity: str, peer: str) -> None:
    """A call that ended badly, or a stream that never became one.

    Args:
        call: None for a stream.
        error: why.
        identity: of the caller, empty if it is not known.
        peer: its address, which is logged for want of an identity.
    """
    if call is None:
        who = {"identity": identity} if identity else {"peer": peer}
        log.info(
            "call_refused", status=error.status, reason_code=error.reason, reason=str(error), **who
        )
    else:
        log.info("call_failed", call_id=call.config.call_id, reason=str(error))


def log_end(call: Call, ending: str, reason: str) -> None:
    """A call that ended, well or not: its status, and the word that metrics count it by."""
    session = call.session
    log.info(
        "call_ended",
        call_id=call.config.call_id,
        identity=call.identity,
        status=ending,
        reason_code=reason,
        messages=call.messages,
        audio_seconds=round(session.audio_seconds, 3),
        speech_seconds=round(session.speech_seconds, 3),
        lost_seconds=round(session.lost_seconds, 3),
        duplicates=session.duplicates,
    )


def enforce(policy: Policy, call: Call, now: float) -> None:
    """End a call that is beyond a limit.

    A call that is over may still wait: for the student to make its final predictions, then for
    its gateway to read them. Neither may take for ever.

    Args:
        policy: the limits.
        call: running, or over and not yet gone.
        now: seconds, monotonic, of the call's own clock.
    """
    lag = call.lag(now)
    if lag > policy.max_lag_seconds and not call.ahead(now):
        error = LagExceeded(lag, policy.max_lag_seconds, RETRY_SECONDS)
        if call.reading_stopped_at is None:
            call.stop(error)
        else:
            call.abort_wait(error)
    elif call.reading_stopped_at is not None:
        if now - call.reading_stopped_at > policy.idle_timeout:
            late = LagExceeded(lag, policy.max_lag_seconds, RETRY_SECONDS)
            call.abort_wait(late if lag else ReadTimeout(policy.idle_timeout))
    elif now - call.last_message > policy.idle_timeout:
        call.stop(IdleTimeout(policy.idle_timeout))
    elif now - call.began > policy.max_call_seconds:
        call.stop(CallTooLong(policy.max_call_seconds))
