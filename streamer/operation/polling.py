"""How gRPC waits for its sockets in the server's process: by the thread that hands out events.

Import it before anything that imports gRPC. By default a thread of gRPC's own waits for sockets
and wakes the one that hands out events; without the event engine's listener that one waits
itself, and a message costs a thread switch less. Measured with 800 streams of 10 messages a
second on one core and a servicer that does nothing: 0.62 instead of 0.78 CPU-ms per call-second,
p99 3.4 instead of 76 ms.

An operator's own GRPC_EXPERIMENTS wins. Not for the client: a gateway's process is not ours.
"""

from __future__ import annotations

import os

VARIABLE = "GRPC_EXPERIMENTS"
EXPERIMENTS = "-event_engine_listener"

os.environ.setdefault(VARIABLE, EXPERIMENTS)
