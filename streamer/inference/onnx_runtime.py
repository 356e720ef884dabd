"""Disables the telemetry of ONNX Runtime. Import this module before onnxruntime.

From 1.32 on its wheel, once imported, writes a database and a device id to ~/.cache/Microsoft and
has an uploader to mobile.events.data.microsoft.com; ``disable_telemetry_events`` comes too late for
the database. An operator's own value of ORT_DISABLE_TELEMETRY wins.
"""

from __future__ import annotations

import os

TELEMETRY_VARIABLE = "ORT_DISABLE_TELEMETRY"

os.environ.setdefault(TELEMETRY_VARIABLE, "1")
