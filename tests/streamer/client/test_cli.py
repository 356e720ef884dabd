"""The command line: a file is streamed and shown, or printed as JSON."""

import io
import json
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from rich.console import Console

from streamer.audio.codec import Encoding, decode, encode
from streamer.client import Prediction, SpeechEvent, Task, cli
from streamer.client.audio_file import TelephoneCall, read_as_call
from streamer.client.live_view import CallView
from streamer.process.local_server import local_server

RATE = 8000
TASKS = ("gender", "age_group", "age_band")


# --- the command line ---


def command(*arguments, module="streamer.client", timeout=60):
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def check_json(lines, seconds, channels):
    """The output of --json: started, then events; the last is the final one of some channel."""
    entries = [json.loads(line) for line in lines]
    assert all(len(entry) == 1 for entry in entries)
    kinds = [next(iter(entry)) for entry in entries]
    assert kinds[0] == "started"
    assert set(kinds[1:]) == {"prediction", "speech"}
    started = entries[0]["started"]
    finals = [e["prediction"] for e in entries if e.get("prediction", {}).get("final")]
    assert entries[-1] == {"prediction": finals[-1]}
    assert sorted(f["channel"] for f in finals) == list(range(channels))
    for final in finals:
        assert final["audio_time"] == pytest.approx(seconds)
        for name in TASKS:
            assert list(final[name]["posterior"]) == started[name]["labels"]
            assert sum(final[name]["posterior"].values()) == pytest.approx(1.0, abs=1e-5)
    return entries


def test_command_line_streams_a_file(server, demo_file, demo_call):
    done = command(demo_file, "--target", server.target, "--json", "--update-ms", 2000)
    assert (done.returncode, done.stderr) == (0, "")
    entries = check_json(done.stdout.splitlines(), demo_call.seconds, 2)
    running = [
        e["prediction"]["audio_time"]
        for e in entries
        if "prediction" in e and not e["prediction"]["final"]
    ]
    assert running
    assert all(seconds % 2 == pytest.approx(0) for seconds in running)
    # 100 ms a message
    assert entries[-1]["prediction"]["sequence"] == int(np.ceil(demo_call.seconds * 10))


def test_command_line_shows_a_view(server, demo_file, capsys):
    assert cli.main([str(demo_file), "--target", server.target]) == 0
    shown = capsys.readouterr().out
    for word in ("0: caller", "1: agent", "gender", "age_group", "final", "not identity"):
        assert word in shown


def test_realtime_takes_as_long_as_the_call(server, tmp_path, capsys):
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(12000, np.int16), RATE)
    began = time.monotonic()
    assert cli.main([str(path), "--target", server.target, "--json", "--realtime"]) == 0
    assert 1.5 <= time.monotonic() - began < 10
    final = json.loads(capsys.readouterr().out.splitlines()[-1])["prediction"]
    assert (final["final"], final["audio_time"]) == (True, 1.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/file.wav"], "no/such/file.wav: no such file"),
        ([__file__], f"{__file__}: not a readable sound file: "),
    ],
)
def test_unreadable_file_is_an_error(arguments, message, capsys):
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(message)
    assert shown.err.count("\n") == 1


def test_three_channels_are_refused(tmp_path, capsys):
    path = tmp_path / "three.wav"
    soundfile.write(path, np.zeros((800, 3), np.int16), RATE)
    assert cli.main([str(path)]) == 2
    assert capsys.readouterr().err == f"{path}: 3 channels; a call has 1 or 2\n"


def test_no_server_is_one_line(demo_file, free_port):
    done = command(demo_file, "--target", f"127.0.0.1:{free_port}", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    (message,) = done.stderr.splitlines()
    assert message.startswith(f"127.0.0.1:{free_port}: UNAVAILABLE: ")


def test_refusal_is_one_line(server, demo_file):
    """Chunks of 11 s are too long: the status, and no traceback behind it."""
    done = command(demo_file, "--target", server.target, "--json", "--chunk-ms", 11000)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"{server.target}: RESOURCE_EXHAUSTED: audio.data: 11 s exceeds the limit of 10 s a message"
    ]


@pytest.mark.parametrize(
    ("flag", "value", "least"), [("--chunk-ms", "0", 1), ("--update-ms", "99", 100)]
)
def test_flags_out_of_range(demo_file, flag, value, least, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([str(demo_file), flag, value])
    assert caught.value.code == 2
    assert f"{flag} {value}: at least {least}" in capsys.readouterr().err


def test_demo_runs_without_arguments(demo_call):
    """Its own server, the call, running predictions, the end; all in JSON for a script."""
    done = command("--json", module="streamer.demo")
    assert done.returncode == 0, done.stderr
    entries = check_json(done.stdout.splitlines(), demo_call.seconds, 2)
    running = [e for e in entries if "prediction" in e and not e["prediction"]["final"]]
    assert len(running) >= 2
    assert {e["speech"]["channel"] for e in entries if "speech" in e} == {0, 1}


# --- what the command line is made of ---


def test_view_before_and_after_the_first_prediction():

    def shown(view):
        console = Console(width=140, record=True, file=io.StringIO())
        console.print(view)
        return console.export_text()

    view = CallView("a call", ["caller", "agent"], 20.0)
    assert shown(view).count("listening") == 2
    task = Task({"female": 0.25, "male": 0.75}, "male", 0.75, "")
    unsure = Task({"20s": 0.5, "60s": 0.5}, "", 0.5, "little_speech")
    view.show(Prediction(1, 4, 2.0, 1.5, 0.0, task, unsure, unsure, final=False))
    view.show(SpeechEvent(0, started=True, audio_time=1.0))
    text = shown(view)
    assert text.count("listening") == 1
    assert "0: caller ● speaking" in text
    assert "2.0 of 20.0 s, speech 1.5 s" in text
    assert "male" in text
    assert "75%" in text
    assert "undecided (little speech)" in text
    view.show(SpeechEvent(0, started=False, audio_time=2.0))
    assert "speaking" not in shown(view)


def test_telephone_call_in_chunks():
    call = TelephoneCall(bytes(range(250)) * 8, 2)
    assert call.seconds == 0.125
    chunks = call.chunks(0.05)
    assert list(map(len, chunks)) == [800, 800, 400]
    assert b"".join(chunks) == call.data


@pytest.mark.parametrize("rate", [8000, 16000, 44100])
def test_files_of_any_rate_become_calls(tmp_path, rate):
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(2 * rate) / rate)
    path = tmp_path / "tone.wav"
    soundfile.write(path, np.stack([tone, -tone], axis=1), rate, subtype="FLOAT")
    call = read_as_call(path)
    assert (call.channels, call.seconds) == (2, pytest.approx(2.0, abs=0.001))
    expected = encode(
        np.rint(16384 * np.sin(2 * np.pi * 440 * np.arange(16000) / RATE)).astype(np.int16),
        Encoding.MULAW,
    )
    left = np.frombuffer(call.data[0::2], np.uint8)[800:-800]
    expected_samples = np.frombuffer(expected, np.uint8)[800:-800]
    got = decode(left.tobytes(), Encoding.MULAW).astype(int)
    right = decode(call.data[1::2], Encoding.MULAW)[800:-800].astype(int)
    assert np.abs(got - decode(expected_samples.tobytes(), Encoding.MULAW)).max() <= 1024
    assert np.abs(got + right).max() <= 1024


def test_local_server_reports_why_it_cannot_start(tmp_path):
    with (
        pytest.raises(RuntimeError, match=r"no\.onnx: not found$"),
        local_server("--model", str(tmp_path / "no.onnx")),
    ):
        raise AssertionError("it serves")
