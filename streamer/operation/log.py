"""The log: JSON lines on standard error."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_log(level: str, **fields: object) -> None:
    """JSON lines on standard error, each written at once: several processes may share it.

    Args:
        level: least that is logged.
        fields: of every line.
    """
    structlog.configure(
        processors=[
            lambda _logger, _method, event: {**fields, **event},
            # Whatever is said while a call's stream is served: its call_id and trace_id.
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
