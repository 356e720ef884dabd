"""Every format of a call."""

from streamer.audio.codec import Encoding

FORMATS = [
    (encoding, rate, channels)
    for encoding in Encoding
    for rate in (8000, 16000)
    for channels in (1, 2)
]


def configured(encoding, rate, channels, **more):
    return {"encoding": encoding, "sample_rate": rate, "ignored": (False,) * channels} | more
