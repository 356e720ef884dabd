"""``python -m streamer.client``."""

import sys

from streamer.client.cli import main

sys.exit(main())
