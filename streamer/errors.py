"""Everything that can go wrong, with the gRPC status it becomes.

Exception
├── CallError                 ends one call
│   ├── InvalidArgument       INVALID_ARGUMENT     a field's value is never valid
│   ├── FailedPrecondition    FAILED_PRECONDITION  valid, but not now or not here
│   ├── Unauthenticated       UNAUTHENTICATED      no token, an unknown or an expired one
│   ├── PermissionDenied      PERMISSION_DENIED    the token lacks a scope
│   ├── ForeignCheckpoint   PERMISSION_DENIED    the call was opened by somebody else
│   ├── LimitExceeded         RESOURCE_EXHAUSTED   a limit of this server
│   ├── Overloaded            RESOURCE_EXHAUSTED   another call would harm the running ones
│   ├── CallTooLong           RESOURCE_EXHAUSTED   the longest that a call may last
│   ├── LagExceeded           RESOURCE_EXHAUSTED   audio waited too long for the student
│   ├── ConfigTimeout         DEADLINE_EXCEEDED    the config did not come
│   ├── IdleTimeout           DEADLINE_EXCEEDED    nothing came for too long
│   ├── ReadTimeout           DEADLINE_EXCEEDED    the last responses were not read
│   ├── Draining              UNAVAILABLE          the server is shutting down
│   ├── Moved                 UNAVAILABLE          likewise, and the call can go on elsewhere
│   ├── TakenOver             ABORTED              another stream resumed the call
│   ├── Unhealthy             UNAVAILABLE          the student does not answer, nobody's fault
│   ├── ServerFault           INTERNAL             an exception that nobody expected
│   └── InferenceFailed       INTERNAL             the model failed on this call
│       └── InferenceUnavailable  UNAVAILABLE      no inference here; another server may answer
└── ModelFileError            stops the server at start

No gRPC is imported here: ``status`` is the name of the code.
"""

from __future__ import annotations

from typing import ClassVar

FULL_RETRY_SECONDS = 1.0
"""When a call that exceeded a number of calls may try again."""


class CallError(Exception):
    """Ends one call with a status.

    Attributes:
        status: name of the gRPC status code.
        reason: a word for what went wrong, to count by; of a small fixed set.
        finals: whether a running call gets its final predictions before the status.
        retry_after: seconds after which trying again makes sense, if it does.
    """

    status: ClassVar[str] = "UNKNOWN"
    reason: str = "unknown"
    finals: ClassVar[bool] = False
    retry_after: float | None = None


class InvalidArgument(CallError):
    """A field has a value that is never valid.

    Args:
        field: path of the field in the request, such as ``config.sample_rate``.
        value: what it held, or a summary of it.
        rule: what would be valid.
        reason: see :class:`CallError`.
    """

    status = "INVALID_ARGUMENT"
    reason = "invalid"

    def __init__(self, field: str, value: object, rule: str, *, reason: str = "invalid") -> None:
        super().__init__(f"{field}: {value} is not valid; {rule}")
        self.reason = reason


class FailedPrecondition(CallError):
    """A message that is valid in itself came at the wrong time or asks what is not offered."""

    status = "FAILED_PRECONDITION"
    reason = "precondition"

    def __init__(self, field: str, rule: str, *, reason: str = "precondition") -> None:
        super().__init__(f"{field}: {rule}")
        self.reason = reason


class Unauthenticated(CallError):
    """The caller did not prove who it is.

    Args:
        rule: what is missing; holds nothing of what the caller sent.
        reason: ``token_missing``, ``token_unknown`` or ``token_expired``.
    """

    status = "UNAUTHENTICATED"

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"authorization: {rule}")
        self.reason = reason


class PermissionDenied(CallError):
    """The caller is known and may not do this.

    Args:
        scope: that its token lacks.
    """

    status = "PERMISSION_DENIED"
    reason = "scope"

    def __init__(self, scope: str) -> None:
        super().__init__(f"authorization: the token lacks the scope {scope!r}")


class ForeignCheckpoint(CallError):
    """A checkpoint is of a call that somebody else opened."""

    status = "PERMISSION_DENIED"
    reason = "checkpoint"

    def __init__(self) -> None:
        super().__init__("config.resume_from: the call was opened by another identity")


class LimitExceeded(CallError):
    """A limit of this server is reached.

    Args:
        field: what is limited.
        value: what it would be.
        limit: the most that it may be.
        retry_after: see :class:`CallError`.
        reason: likewise.
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
    """Another call would harm the running ones."""

    status = "RESOURCE_EXHAUSTED"
    reason = "full"

    def __init__(self, cause: str, retry_after: float) -> None:
        super().__init__(f"the server is full: {cause}")
        self.retry_after = retry_after


class CallTooLong(CallError):
    """A call lasts longer than this server lets one."""

    status = "RESOURCE_EXHAUSTED"
    reason = "length"
    finals = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"call length: {seconds:g} s, the most that a call may last, are over")


class LagExceeded(CallError):
    """Audio of a call waited too long for the student: what was said of it would come too late."""

    status = "RESOURCE_EXHAUSTED"
    reason = "lag"

    def __init__(self, lag: float, limit: float, retry_after: float) -> None:
        super().__init__(f"audio lag: {lag:.3g} s exceeds the limit of {limit:g} s")
        self.retry_after = retry_after


class ConfigTimeout(CallError):
    """A stream was opened and did not say what it wants."""

    status = "DEADLINE_EXCEEDED"
    reason = "config"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"config: it did not come within {seconds:g} s of the stream's opening")


class IdleTimeout(CallError):
    """No message came for too long."""

    status = "DEADLINE_EXCEEDED"
    reason = "idle"
    finals = True

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no message for {seconds:g} s; half-close or send `finish` to end a call")


class ReadTimeout(CallError):
    """A call is over, and its last responses were not read."""

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
    """The server is shutting down, and the call can go on elsewhere from its last checkpoint."""

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
    """The student raised, or answered something that is no probability."""

    status = "INTERNAL"
    reason = "student"

    def __init__(self, cause: str) -> None:
        super().__init__(f"the student failed on this call: {cause}")


class InferenceUnavailable(InferenceFailed):
    """The student could not answer, which says nothing about the call: stuck, out of memory."""

    status = "UNAVAILABLE"
    retry_after = 1.0


class Unhealthy(CallError):
    """The student of this server does not answer any call."""

    status = "UNAVAILABLE"
    reason = "student"

    def __init__(self, cause: str, retry_after: float = 1.0) -> None:
        super().__init__(f"the server is not healthy: {cause}; another one may answer")
        self.retry_after = retry_after


class ServerFault(CallError):
    """A mistake of ours; the log has its traceback."""

    status = "INTERNAL"
    reason = "fault"

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the server failed on this call: {type(error).__name__}")


class ModelFileError(Exception):
    """The model file cannot be served; the message is one line that says why."""
