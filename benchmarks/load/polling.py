"""How gRPC waits for its sockets in a generator process. Import it before anything of gRPC.

Without its event engine a message costs fewer thread switches. Measured with the generator on one
core at 100 ms chunks: 1.03 instead of 1.36 CPU-ms per call-second with 200 calls, 1.36 instead of
1.59 with 50. Only processes that the load benchmarks spawn: the server, which inherits the
environment of the benchmark itself, decides for itself.
"""

from __future__ import annotations

import multiprocessing
import os

if multiprocessing.parent_process() is not None:
    os.environ["GRPC_EXPERIMENTS"] = "-event_engine_client,-event_engine_listener"
