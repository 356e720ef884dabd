import pytest

from train.corpora.tsv import read

FULL = """id\tcorpus\tspeaker\tgender\tage\tage_band\tlanguage\tseconds\tsplit\tlicence\tpath
a-1\tcalls\ta\tmale\t25\t20s\ten\t1.5\ttrain\tMIT\taudio/a/1.wav
b-1\tcalls\tb\tfemale\t\t\tko\t2\ttest\tCC0-1.0\taudio/b/1.wav
"""


def test_the_manifest_of_a_prepared_collection(tmp_path, make):
    make.tree(tmp_path, {"manifest.tsv": FULL.encode()})
    for source in (tmp_path, tmp_path / "manifest.tsv"):
        (first, second), rejected = make.sort(read(source))
        assert rejected == []
        assert (first.id, first.corpus, first.speaker) == ("a-1", "calls", "a")
        assert (first.age, first.age_band, first.split) == (25, "20s", "train")
        assert (first.licence, first.seconds) == ("MIT", 1.5)
        assert first.source == f"{tmp_path}/audio/a/1.wav"
        assert (second.age, second.age_band, second.language) == (None, "", "ko")


def test_a_folder_of_wavs_and_a_csv_from_a_spreadsheet(tmp_path, make):
    header = "\ufeffPath,Speaker,Gender,Age,line,notes"
    text = f'{header}\r\n"calls/a,b.wav",agent 7,여,30대,telephone,"x"\r\n'
    make.tree(tmp_path / "mine", {"list.csv": text.encode()})
    ((one,), rejected) = make.sort(read(tmp_path / "mine" / "list.csv"))
    assert rejected == []
    assert (one.id, one.corpus, one.speaker) == ("calls-a,b", "mine", "agent 7")
    assert (one.gender, one.age_band, one.line) == ("female", "30s", "telephone")


def test_a_band_that_straddles_ours_is_left_empty(tmp_path, make):
    make.tree(
        tmp_path,
        {"manifest.csv": b"path,speaker,gender,age_band\na.wav,a,f,30-49\nb.wav,b,m,60+\n"},
    )
    (a, b), _ = make.sort(read(tmp_path))
    assert (a.age_band, b.age_band) == ("", "60+")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("x.wav,,f,20,,", "speaker missing"),
        (",s,f,20,,", "audio missing"),
        ("x.wav,s,,20,,", "gender missing"),
        ("x.wav,s,f,old,,", "age not understood"),
        ("x.wav,s,f,20,30s,", "age contradicts age band"),
        ("x.wav,s,f,20,20s,holdout", "split unknown"),
        ("x.wav,s,f,20", "row broken"),
        ("x,y.wav,s,f,20,,", "row broken"),
    ],
)
def test_a_row_that_cannot_be_used_costs_itself(tmp_path, make, row, reason):
    content = f"path,speaker,gender,age,age_band,split\n{row}\ngood.wav,s,f,20,20s,validation\n"
    make.tree(tmp_path, {"manifest.csv": content.encode()})
    ((one,), (fault,)) = make.sort(read(tmp_path))
    assert (one.id, one.split) == ("good", "dev")
    assert fault.reason == reason
    assert "line 2" in fault.detail


def test_rows_that_are_not_utf8_cost_themselves(tmp_path, make):
    rows = b"path,speaker,gender,age\na.wav," + "김".encode("cp949") + b",f,20\nb.wav,b,f,20\n"
    make.tree(tmp_path, {"manifest.csv": rows})
    ((one,), (fault,)) = make.sort(read(tmp_path))
    assert one.id == "b"
    assert fault.reason == "row not UTF-8"


@pytest.mark.parametrize(
    ("header", "missing"),
    [
        ("path,gender,age", "speaker"),
        ("path,speaker,age", "gender"),
        ("path,speaker,gender", "age|age_band"),
        ("", "path, speaker"),
    ],
)
def test_a_list_without_a_needed_column_is_refused(tmp_path, make, header, missing):
    make.tree(tmp_path, {"manifest.csv": f"{header}\n".encode()})
    with pytest.raises(ValueError, match="column missing") as fault:
        list(read(tmp_path))
    assert missing in str(fault.value)


def test_no_list(tmp_path):
    with pytest.raises(ValueError, match=r"no manifest\.tsv or manifest\.csv"):
        list(read(tmp_path))
    with pytest.raises(ValueError, match="No such file"):
        list(read(tmp_path / "none.csv"))
