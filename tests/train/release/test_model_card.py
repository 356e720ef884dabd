"""The model card: what the template is filled with, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from streamer.inference.model import DEFAULT_MODEL
from train.release import model_card
from train.release.card_tables import TABLES

ROOT = Path(__file__).parents[3]
RESULTS = ROOT / "benchmarks/results"
MODEL = DEFAULT_MODEL.with_name("student.onnx")


@pytest.fixture(scope="module")
def sources():
    return model_card.read_sources(MODEL, RESULTS)


def describes(sources, text):
    return f"<!-- describes: {sources.values['model']['model_id']} -->\n{text}"


def test_the_committed_card_is_made_from_the_committed_figures(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    out = tmp_path / "CARD.md"
    assert model_card.main(["--model", str(MODEL), "--out", str(out)]) == 0
    assert out.read_text() == (ROOT / "MODEL_CARD.md").read_text()
    assert len(out.read_bytes()) < 20_000


def test_the_pictures_of_the_card_exist():
    card = (ROOT / "MODEL_CARD.md").read_text()
    pictures = [part.partition(")")[0] for part in card.split("](")[1:]]
    assert pictures
    assert all((ROOT / name).is_file() for name in pictures)


def test_every_table_is_used_and_has_rows(sources):
    template = model_card.TEMPLATE.read_text()
    for name, table in TABLES.items():
        assert f"{{{{table {name}}}}}" in template
        made = table(sources)
        assert made.rows
        assert all(len(row) == len(made.header) for row in made.rows)


class TestValues:
    VALUES = {  # noqa: RUF012
        "accuracy": {
            "calls": 1234,
            "recall": 0.51234,
            "interval": {"recall": [0.4, 0.6]},
            "gap_points": -2.345,
            "rows": [{"name": "x", "share": 0.256}],
        }
    }

    @pytest.mark.parametrize(
        ("reference", "text"),
        [
            ("accuracy/calls", "1,234"),
            ("accuracy/recall", "0.512 (0.400 to 0.600)"),
            ("accuracy/recall:1", "0.5 (0.4 to 0.6)"),
            ("accuracy/recall:%", "51%"),
            ("accuracy/gap_points:1", "-2.3"),
            ("accuracy/rows/0/name", "x"),
            ("accuracy/rows/0/share:2", "0.26"),
        ],
    )
    def test_are_formatted(self, reference, text):
        assert model_card.value_at(self.VALUES, reference) == text

    @pytest.mark.parametrize(
        ("reference", "message"),
        [
            ("accuracy/precision", "no 'precision'"),
            ("accuracy/rows/7", "no '7'"),
            ("accuracy/interval", "is no figure"),
        ],
    )
    def test_that_are_absent_are_named(self, reference, message):
        with pytest.raises(model_card.UnusableInput, match=message):
            model_card.value_at(self.VALUES, reference)


class TestTemplate:
    def test_prose_about_another_model_is_refused(self, sources):
        for text in ("# Card", "<!-- describes: other-1 -->\n# Card"):
            with pytest.raises(model_card.UnusableInput, match="review its prose for"):
                model_card.fill(text, sources)

    def test_an_unknown_table_is_named(self, sources):
        with pytest.raises(model_card.UnusableInput, match="no table 'nonsense'"):
            model_card.fill(describes(sources, "{{table nonsense}}"), sources)

    def test_a_path_of_the_machine_is_refused(self, sources):
        with pytest.raises(model_card.UnusableInput, match="/home/someone"):
            model_card.fill(describes(sources, "made in /home/someone/x"), sources)


class TestSources:
    @pytest.fixture
    def refused(self, tmp_path, capsys):
        """The error for a model, or for results of which one file is changed or absent."""

        def run(name="", text="", model=MODEL):
            results = tmp_path / "results"
            results.mkdir(exist_ok=True)
            for file in model_card.FILES.values():
                shutil.copy(RESULTS / f"{file}.json", results)
            if name:
                (results / name).write_text(text)
            card = tmp_path / "card.md"
            words = ["--model", model, "--results", results, "--out", card]
            assert model_card.main([str(word) for word in words]) == 2
            assert not card.exists()
            return capsys.readouterr().err

        return run

    def test_results_that_do_not_belong_to_the_model(self, refused):
        other = json.loads((RESULTS / "accuracy.json").read_text()) | {"model": "other-1"}
        assert "measured other-1, not " in refused("accuracy.json", json.dumps(other))
        whole = (RESULTS / "accuracy_per_speaker.json").read_text()
        assert "accuracy.json: per_speaker is True" in refused("accuracy.json", whole)

    def test_files_that_cannot_be_read_are_named(self, refused, tmp_path):
        (tmp_path / "none.onnx").write_text("nothing")
        assert "none.onnx: not an ONNX file" in refused(model=tmp_path / "none.onnx")
        assert "absent.onnx: No such file" in refused(model=tmp_path / "absent.onnx")
        assert "probe_test.json: not JSON" in refused("probe_test.json", "nothing")
