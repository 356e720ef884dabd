"""Check for optional packages before a command imports them."""

from __future__ import annotations

import importlib.util
import sys

MISSING = 2
"""Exit status of a command whose extra is not installed."""


def require(command: str, extra: str, *modules: str) -> None:
    """End the process with one line if an extra is not installed.

    Args:
        command: that needs it, for the message.
        extra: of this package.
        modules: top-level modules that the extra brings.

    Raises:
        SystemExit: with status 2.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        print(  # noqa: T201 - before there is a log
            f"{command} needs packages that are not installed ({', '.join(missing)}): "
            f"pip install 'voicecohort[{extra}]'",
            file=sys.stderr,
        )
        raise SystemExit(MISSING)
