import io

import lhotse
import numpy as np
import pytest
import soundfile
from lhotse.audio.backend import get_current_audio_backend, set_current_audio_backend

from train.corpora.archive import MissingFileError, UnreadableFileError
from train.corpora.audio import AudioInfo, info, open_audio, read_audio, resample
from train.corpora.lhotse_backend import install


@pytest.fixture(params=["file", "member"])
def source(request, tmp_path, make):
    """Two seconds of stereo at 16 kHz, first channel 200 Hz."""
    if request.param == "file":
        make.tree(tmp_path, {"소리.wav": make.tone(2.0, channels=2)})
        return f"{tmp_path}/소리.wav"
    make.zip(tmp_path / "원천.zip", {"가/소리.wav": make.tone(2.0, channels=2)}, cp949=True)
    return f"{tmp_path}/원천.zip!가/소리.wav"


def test_info_and_first_channel(source):
    assert info(source) == AudioInfo(16000, 32000, 2)
    samples = read_audio(source, 16000)
    assert samples.dtype == np.int16
    expected = 0.3 * 32768 * np.sin(2 * np.pi * 200 * np.arange(32000) / 16000)
    assert np.abs(samples - expected).max() < 2


def test_a_stretch_is_cut_exactly(source):
    whole = read_audio(source, 16000)
    np.testing.assert_array_equal(read_audio(source, 16000, 0.5, 0.25), whole[8000:12000])
    np.testing.assert_array_equal(read_audio(source, 16000, 1.5, 9), whole[24000:])
    assert len(read_audio(source, 16000, start_s=7)) == 0


def test_resampled(source):
    samples = read_audio(source, 8000)
    assert len(samples) == 16000
    expected = 0.3 * 32768 * np.sin(2 * np.pi * 200 * np.arange(16000) / 8000)
    assert np.abs(samples - expected)[400:-400].max() < 20
    np.testing.assert_allclose(resample(read_audio(source, 16000), 16000, 8000), samples, atol=1)
    assert resample(samples, 8000, 8000) is samples


def test_an_open_file_is_read_too(make):
    assert len(read_audio(io.BytesIO(make.tone(1.0)), 16000)) == 16000


def test_loud_samples_saturate(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([2.0, -2.0], np.float32), 8000, subtype="FLOAT")
    assert read_audio(str(tmp_path / "a.wav"), 8000).tolist() == [32767, -32768]


def test_faults(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"this is no audio")
    for reading in (info, lambda source: read_audio(source, 8000)):
        with pytest.raises(UnreadableFileError, match=r"[Ff]ormat"):
            reading(str(tmp_path / "a.wav"))
        with pytest.raises(MissingFileError, match="no such file"):
            reading(str(tmp_path / "b.wav"))
    with pytest.raises(UnreadableFileError, match="directory"):
        open_audio(str(tmp_path))


def test_lhotse_reads_members_as_it_reads_files(source):
    before = get_current_audio_backend()
    install()
    try:
        recording = lhotse.Recording(
            id="a",
            sources=[lhotse.AudioSource(type="file", channels=[0, 1], source=source)],
            sampling_rate=16000,
            num_samples=32000,
            duration=2.0,
        )
        loaded = recording.load_audio(channels=0, offset=0.5, duration=0.25)[0]
    finally:
        set_current_audio_backend(before)
    np.testing.assert_array_equal(loaded * 32768, read_audio(source, 16000, 0.5, 0.25))
