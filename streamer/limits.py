"""How long a call may be silent, late, or go on; looked at once a second."""

from __future__ import annotations

from streamer.admission import Policy
from streamer.call import Call
from streamer.errors import CallTooLong, IdleTimeout, LagExceeded, ReadTimeout
from streamer.operation.load import RETRY_SECONDS


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
        if call.over_since is None:
            call.stop(error)
        else:
            call.give_up(error)
    elif call.over_since is not None:
        if now - call.over_since > policy.idle_timeout:
            late = LagExceeded(lag, policy.max_lag_seconds, RETRY_SECONDS)
            call.give_up(late if lag else ReadTimeout(policy.idle_timeout))
    elif now - call.last_message > policy.idle_timeout:
        call.stop(IdleTimeout(policy.idle_timeout))
    elif now - call.began > policy.max_call_seconds:
        call.stop(CallTooLong(policy.max_call_seconds))
