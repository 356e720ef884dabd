"""Errors of calls and their gRPC statuses.

Exception
├── CallError                 ends one call
│   ├── InvalidArgument       INVALID_ARGUMENT     a field has a value that is not valid
│   ├── FailedPrecondition    FAILED_PRECONDITION  valid, but not in this state or server
│   ├── Unauthenticated       UNAUTHENTICATED      no token, an unknown or an expired one
│   ├── PermissionDenied      PERMISSION_DENIED    the token lacks a scope
│   ├── ForeignCheckpoint     PERMISSION_DENIED    another identity opened the call
│   ├── LimitExceeded         RESOURCE_EXHAUSTED   a limit of this server
│   ├── Overloaded            RESOURCE_EXHAUSTED   the server has no capacity for the call
│   ├── CallTooLong           RESOURCE_EXHAUSTED   the maximum length of a call is reached
│   ├── LagExceeded           RESOURCE_EXHAUSTED   audio waited too long for inference
│   ├── ConfigTimeout         DEADLINE_EXCEEDED    no config within the time limit
│   ├── IdleTimeout           DEADLINE_EXCEEDED    no message within the time limit
│   ├── ReadTimeout           DEADLINE_EXCEEDED    the last responses were not read
│   ├── Draining              UNAVAILABLE          the server is shutting down
│   ├── Moved                 UNAVAILABLE          the server is shutting down; resume elsewhere
│   ├── TakenOver             ABORTED              another stream resumed the call
│   ├── Unhealthy             UNAVAILABLE          inference does not work on this server
│   ├── ServerFault           INTERNAL             an unexpected exception
│   └── InferenceFailed       INTERNAL             inference failed on this call
│       └── InferenceUnavailable  UNAVAILABLE      no inference on this server; try another
└── ModelFileError            stops the server at start

This module imports no gRPC: ``status`` is the name of the code.
"""

from __future__ import annotations

from typing import ClassVar

FULL_RETRY_SECONDS = 1.0
"""Retry delay of a call refused by a limit of calls."""


class CallError(Exception):
    """Ends one call with a status.

    Attributes:
        status: name of the gRPC status code.
        reason: reason code for metrics, one of a small fixed set.
        finals: whether a running call gets its final predictions before the status.
        retry_after: retry delay in seconds; None if a retry cannot succeed.
    """

    status: ClassVar[str] = "UNKNOWN"
    reason: str = "unknown"
    finals: ClassVar[bool] = False
    retry_after: float | None = None


class InvalidArgument(CallError):
    """A field has a value that is not valid.

    Args:
        field: path of the field in the request, such as ``config.sample_rate``.
        value: the value, or a summary of it.
        rule: description of valid values.
        reason: see :class:`CallError`.
    """

    status = "INVALID_ARGUMENT"
    reason = "invalid"

    def __init__(self, field: str, value: object, rule: str, *, reason: str = "invalid") -> None:
        super().__init__(f"{field}: {value} is not valid; {rule}")
        self.reason = reason


class FailedPrecondition(CallError):
    """A valid message arrived in the wrong state, or requests something not available."""

    status = "FAILED_PRECONDITION"
    reason = "precondition"

    def __init__(self, field: str, rule: str, *, reason: str = "precondition") -> None:
        super().__init__(f"{field}: {rule}")
        self.reason = reason


class Unauthenticated(CallError):
    """The caller is not authenticated.

    Args:
        rule: what is missing; must not contain data of the caller.
        reason: ``token_missing``, ``token_unknown`` or ``token_expired``.
    """

    status = "UNAUTHENTICATED"

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"authorization: {rule}")
        self.reason = reason


class PermissionDenied(CallError):
    """The caller's token does not allow the request.

    Args:
        scope: scope that the token lacks.
    """

    status = "PERMISSION_DENIED"
    reason = "scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"authorization: the token lacks the scope {scope!r}")


class ForeignCheckpoint(CallError):
    """A checkpoint belongs to a call that another identity opened."""

    status = "PERMISSION_DENIED"
    reason = "checkpoint"

    def __init__(self) -> None:
        super().__init__("config.resume_from: the call was opened by another identity")


class LimitExceeded(CallError):
    """A limit of this server is reached.

    Args:
        field: limited quantity.
        value: value that exceeds the limit.
        limit: maximum.
        retry_after: see :class:`CallError`.
        reason: see :class:`CallError`.
    """

    status = "RESOURCE_EXHAUSTED"
    reason = "limit"

    def __init__(
        self,
        field: str,
        value: object,
        limit: object,
        retry_after: float | None = None,
        *,
        reason: str = "limit",
    ) -> None:
        super().__init__(f"{field}: {value} exceeds the limit of {limit}")
        self.retry_after = retry_after
        self.reason = reason


class Overloaded(CallError):
    """The server has no capacity for another call."""

    status = "RESOURCE_EXHAUSTED"
    reason = "full"

    def __init__(self, cause: str, retry_after: float) -> None:
        super().__init__(f"the server is full: {cause}")
        self.retry_after = retry_after


class CallTooLong(CallError):
    """A call reached the maximum length."""

    status = "RESOURCE_EXHAUSTED"
    reason = "length"
    finals = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"call length: {seconds:g} s, the most that a call may last, are over")


class LagExceeded(CallError):
    """Audio of a call waited too long for inference; its predictions would be too late."""

    status = "RESOURCE_EXHAUSTED"
    reason = "lag"

    def __init__(self, lag: float, limit: float, retry_after: float) -> None:
        super().__init__(f"audio lag: {lag:.3g} s exceeds the limit of {limit:g} s")
        self.retry_after = retry_after


class ConfigTimeout(CallError):
    """A stream was opened and sent no config in time."""

    status = "DEADLINE_EXCEEDED"
    reason = "config"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"config: it did not come within {seconds:g} s of the stream's opening")


class IdleTimeout(CallError):
    """A call received no message within the time limit."""

    status = "DEADLINE_EXCEEDED"
    reason = "idle"
    finals = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no message for {seconds:g} s; half-close or send `finish` to end a call")


class ReadTimeout(CallError):
    """A call has ended, and the client did not read its last responses in time."""

    status = "DEADLINE_EXCEEDED"
    reason = "unread"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"the last responses were not read for {seconds:g} s")


class Draining(CallError):
    """The server is shutting down."""

    status = "UNAVAILABLE"
    reason = "draining"
    finals = True

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__("the server is shutting down; call again, another one may answer")
        self.retry_after = retry_after


class Moved(CallError):
    """The server is shutting down; another server can resume the call from its checkpoint."""

    status = "UNAVAILABLE"
    reason = "moved"
    retry_after = 0.0

    def __init__(self) -> None:
        super().__init__("the server is shutting down; resume the call from its last checkpoint")


class TakenOver(CallError):
    """Another stream resumed the call."""

    status = "ABORTED"
    reason = "taken_over"

    def __init__(self) -> None:
        super().__init__("the call was taken over by a stream that resumed it")


class InferenceFailed(CallError):
    """Inference raised an exception or returned invalid probabilities."""

    status = "INTERNAL"
    reason = "student"

    def __init__(self, cause: str) -> None:
        super().__init__(f"the student failed on this call: {cause}")


class InferenceUnavailable(InferenceFailed):
    """Inference was not possible, independent of the call: a timeout, or out of memory."""

    status = "UNAVAILABLE"
    retry_after = 1.0


class Unhealthy(CallError):
    """Inference does not work on this server."""

    status = "UNAVAILABLE"
    reason = "student"

    def __init__(self, cause: str, retry_after: float = 1.0) -> None:
        super().__init__(f"the server is not healthy: {cause}; another one may answer")
        self.retry_after = retry_after


class ServerFault(CallError):
    """An unexpected exception; its traceback is in the log."""

    status = "INTERNAL"
    reason = "fault"

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the server failed on this call: {type(error).__name__}")


class ModelFileError(Exception):
    """The model file cannot be used; the message is one line with the reason."""
