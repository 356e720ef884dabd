"""How a stream ends: its status, and its line in the log."""

from __future__ import annotations

import grpc
import structlog
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import code_pb2, error_details_pb2, status_pb2

from streamer import messages
from streamer.call import Call
from streamer.errors import CallError
from streamer.rpc import voicecohort_pb2 as pb

log = structlog.get_logger()

Context = grpc.aio.ServicerContext[pb.StreamClassifyRequest, pb.StreamClassifyResponse]


async def abort(context: Context, error: CallError) -> None:
    """End the stream with the error's status and, where it has one, its retry delay."""
    code = grpc.StatusCode[error.status]
    metadata: tuple[tuple[str, bytes], ...] = ()
    if error.retry_after is not None:
        details = AnyMessage()
        details.Pack(error_details_pb2.RetryInfo(retry_delay=messages.duration(error.retry_after)))
        status = status_pb2.Status(
            code=code_pb2.Code.Value(error.status), message=str(error), details=[details]
        )
        metadata = (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(code, str(error), metadata)


def log_error(call: Call | None, error: CallError) -> None:
    """A call that ended badly, or a stream that never became one."""
    if call is None:
        log.info("call_refused", status=error.status, reason=str(error))
    else:
        log.info("call_failed", call_id=call.config.call_id, reason=str(error))


def log_end(call: Call, ending: str) -> None:
    """A call that ended, well or not."""
    session = call.session
    log.info(
        "call_ended",
        call_id=call.config.call_id,
        status=ending,
        messages=call.messages,
        audio_seconds=round(session.audio_seconds, 3),
        speech_seconds=round(session.speech_seconds, 3),
        lost_seconds=round(session.lost_seconds, 3),
        duplicates=session.duplicates,
    )
