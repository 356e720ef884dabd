import functools
import http.server
import json
import threading

import numpy as np
import pytest

from train.data.dataset import audio_of, open_data, open_split, utterance_of
from train.shard import ShardSettings, write_shards


def labels(folder, split):
    return {cut.id: utterance_of(cut) for cut in open_data(folder, split)}


def test_shards_hold_the_same_labels_and_the_same_samples(prepared, sharded):
    for split in ("train", "dev"):
        before = {cut.id: cut for cut in open_data(prepared, split)}
        after = {cut.id: cut for cut in open_data(sharded, split)}
        assert before.keys() == after.keys()
        for cut_id, cut in after.items():
            old, new = utterance_of(before[cut_id]), utterance_of(cut)
            assert (old.gender, old.age_band, old.speaker) == (
                new.gender,
                new.age_band,
                new.speaker,
            )
            np.testing.assert_array_equal(audio_of(cut, 16000), audio_of(before[cut_id], 16000))


def test_counts_in_the_index_are_those_of_the_manifests(prepared, sharded):
    ours, theirs = open_split(sharded, "train"), open_split(prepared, "train")
    assert ours.cells == theirs.cells
    assert ours.licences == {"made": "CC0"}
    assert len(ours.shards) > 2


def test_several_folders_are_read_as_one(prepared, sharded):
    both = open_split([prepared, sharded], "train")
    assert both.clips == 2 * open_split(prepared, "train").clips


def test_a_rerun_keeps_what_is_finished(prepared, tmp_path):
    write_shards(prepared, tmp_path, clips=6, jobs=1)
    finished = sorted((tmp_path / "train").glob("recording.*.tar"))
    times = [path.stat().st_mtime_ns for path in finished]
    (tmp_path / "index.json").unlink()
    finished[1].with_name("cuts.000001.jsonl.gz").unlink()  # as if cut off in this shard
    write_shards(prepared, tmp_path, clips=6, jobs=1)
    again = [path.stat().st_mtime_ns for path in finished]
    assert [a == b for a, b in zip(times, again, strict=True)] == [
        i != 1 for i in range(len(times))
    ]
    assert labels(tmp_path, "train").keys() == labels(prepared, "train").keys()


def test_shards_of_other_settings_are_not_mixed(prepared, sharded):
    with pytest.raises(ValueError, match="other settings"):
        write_shards(prepared, sharded, clips=3, jobs=1)


def test_a_folder_without_manifests_is_named(tmp_path):
    with pytest.raises(ValueError, match="no cuts"):
        write_shards(tmp_path / "nothing", tmp_path / "out")
    with pytest.raises(ValueError, match="neither"):
        open_split(tmp_path, "train")


def test_audio_that_cannot_be_decoded_costs_itself_only(make_prepared, tmp_path):
    prepared = make_prepared(tmp_path / "corpus", count=12)
    victim = next(iter(open_data(prepared, "train")))
    source = victim.recording.sources[0].source
    with open(source, "r+b") as file:  # noqa: PTH123
        file.truncate(20)
    index = write_shards(prepared, tmp_path / "out", clips=5, jobs=1)
    assert index["rejected"] == 1
    lines = [
        json.loads(line)
        for path in (tmp_path / "out" / "train").glob("rejected.*")
        for line in path.read_text().splitlines()
    ]
    assert [line["id"] for line in lines] == [victim.id]
    assert lines[0]["source"] == source
    assert lines[0]["reason"]
    assert victim.id not in labels(tmp_path / "out", "train")


def test_shards_stream_from_a_web_server(sharded):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Quiet, directory=str(sharded))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        for cut in open_data(address, "dev"):
            local = next(c for c in open_data(sharded, "dev") if c.id == cut.id)
            np.testing.assert_array_equal(audio_of(cut, 8000), audio_of(local, 8000))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_command_line(make_prepared, tmp_path, capsys):
    prepared = make_prepared(tmp_path / "corpus", count=8)
    ShardSettings(_cli_parse_args=[str(prepared), str(tmp_path / "out"), "--jobs", "1"]).cli_cmd()
    assert "train: " in capsys.readouterr().out
    first = sorted((tmp_path / "out" / "train").glob("*.tar"))[0]
    assert first.stat().st_size > 1000
