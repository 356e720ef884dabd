"""Lets lhotse's own ``cut.load_audio()`` read ``ARCHIVE.zip!MEMBER``."""

from __future__ import annotations

from typing import Any

import numpy as np
from lhotse.audio.backend import (
    AudioBackend,
    LibsndfileBackend,
    get_default_audio_backend,
    set_current_audio_backend,
)
from numpy.typing import NDArray

from train.corpora.archive import split_source
from train.corpora.audio import open_audio


class ArchiveBackend(AudioBackend):  # type: ignore[misc]
    """Members of archives by libsndfile, everything else as lhotse would by itself."""

    def read_audio(
        self,
        path_or_fd: Any,  # noqa: ANN401 - lhotse takes paths and files
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> tuple[NDArray[np.float32], int]:
        """Float samples [channels, n] and their rate in Hz; offset and duration in seconds."""
        source = str(path_or_fd)
        if isinstance(path_or_fd, bytes) or not split_source(source)[1]:
            default = get_default_audio_backend()
            audio: tuple[NDArray[np.float32], int] = default.read_audio(
                path_or_fd, offset, duration, force_opus_sampling_rate
            )
            return audio
        with open_audio(source) as file:
            member: tuple[NDArray[np.float32], int] = LibsndfileBackend().read_audio(
                file, offset, duration
            )
            return member


def install() -> None:
    """Make it lhotse's backend in this process; worker processes call it for themselves."""
    set_current_audio_backend(ArchiveBackend())
