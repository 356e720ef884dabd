"""Everything that can go wrong, with the gRPC status it becomes.

Exception
├── CallError                 ends one call
│   ├── InvalidArgument       INVALID_ARGUMENT     a field's value is never valid
│   ├── FailedPrecondition    FAILED_PRECONDITION  valid, but not now or not here
│   ├── LimitExceeded         RESOURCE_EXHAUSTED   a limit of this server
│   ├── IdleTimeout           DEADLINE_EXCEEDED    nothing came for too long
│   ├── Draining              UNAVAILABLE          the server is shutting down
│   ├── Unhealthy             UNAVAILABLE          the student does not answer, nobody's fault
│   ├── ServerFault           INTERNAL             an exception that nobody expected
│   └── StudentFailed         INTERNAL             the student failed on this call
│       └── StudentUnavailable  UNAVAILABLE        it could not be asked; another server may answer
└── ModelFileError            stops the server at start

No gRPC is imported here: ``status`` is the name of the code.
"""

from __future__ import annotations

from typing import ClassVar


class CallError(Exception):
    """Ends one call with a status.

    Attributes:
        status: name of the gRPC status code.
        retry_after: seconds after which trying again makes sense, if it does.
    """

    status: ClassVar[str] = "UNKNOWN"
    retry_after: float | None = None


class InvalidArgument(CallError):
    """A field has a value that is never valid.

    Args:
        field: path of the field in the request, such as ``config.sample_rate``.
        value: what it held, or a summary of it.
        rule: what would be valid.
    """

    status = "INVALID_ARGUMENT"

    def __init__(self, field: str, value: object, rule: str) -> None:
        super().__init__(f"{field}: {value} is not valid; {rule}")


class FailedPrecondition(CallError):
    """A message that is valid in itself came at the wrong time or asks what is not offered."""

    status = "FAILED_PRECONDITION"

    def __init__(self, field: str, rule: str) -> None:
        super().__init__(f"{field}: {rule}")


class LimitExceeded(CallError):
    """A limit of this server is reached."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(
        self, field: str, value: object, limit: object, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{field}: {value} exceeds the limit of {limit}")
        self.retry_after = retry_after


class Overloaded(CallError):
    """Another call would harm the running ones."""

    status = "RESOURCE_EXHAUSTED"

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(f"the server is full: {reason}")
        self.retry_after = retry_after


class IdleTimeout(CallError):
    """No message came for too long."""

    status = "DEADLINE_EXCEEDED"

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no message for {seconds:g} s; half-close or send `finish` to end a call")


class Draining(CallError):
    """The server is shutting down."""

    status = "UNAVAILABLE"

    def __init__(self, retry_after: float = 1.0) -> None:
        super().__init__("the server is shutting down; call again, another one may answer")
        self.retry_after = retry_after


class StudentFailed(CallError):
    """The student raised, or answered something that is no probability."""

    status = "INTERNAL"

    def __init__(self, reason: str) -> None:
        super().__init__(f"the student failed on this call: {reason}")


class StudentUnavailable(StudentFailed):
    """The student could not answer, which says nothing about the call: stuck, out of memory."""

    status = "UNAVAILABLE"
    retry_after = 1.0


class Unhealthy(CallError):
    """The student of this server does not answer any call."""

    status = "UNAVAILABLE"

    def __init__(self, reason: str, retry_after: float = 1.0) -> None:
        super().__init__(f"the server is not healthy: {reason}; another one may answer")
        self.retry_after = retry_after


class ServerFault(CallError):
    """A mistake of ours; the log has its traceback."""

    status = "INTERNAL"

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"the server failed on this call: {type(error).__name__}")


class ModelFileError(Exception):
    """The model file cannot be served; the message is one line that says why."""
