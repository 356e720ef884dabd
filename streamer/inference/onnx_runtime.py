"""Nothing of what runs here is reported to the makers of a library.

Import it before onnxruntime: from 1.32 on its wheel, once imported, writes a database and a device
id to ~/.cache/Microsoft and has an uploader to mobile.events.data.microsoft.com, which
``disable_telemetry_events`` stops too late for the first of them.

An operator's own ORT_DISABLE_TELEMETRY wins.
"""

from __future__ import annotations

import os

VARIABLE = "ORT_DISABLE_TELEMETRY"

os.environ.setdefault(VARIABLE, "1")
