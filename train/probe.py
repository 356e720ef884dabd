"""Has a student learned the corpus instead of the age? Figures to stand beside every age result.

    python -m train.probe --data PREPARED --split dev --student runs/first/last.pt

A linear probe tells the corpus from the embedding within one age band; and age is scored inside
single corpora, where knowing the corpus does not help.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

from pydantic import Field
from pydantic_settings import CliApp, SettingsConfigDict
from rich.console import Console

from train.checkpoint import load_student
from train.command import Command
from train.data.batching import TelephoneDataset, evaluation_batches
from train.data.channel_sampler import ChannelSampler, Preset
from train.data.dataset import open_split, utterance_of
from train.probing.report import Report, picture, shortcut_report, show


class Probe(Command):
    """Measure whether a student has learned the corpus instead of the age.

    Prints, for every age band, how well a linear probe tells the corpora apart by the embedding,
    beside chance and beside what the bare spectrum tells; then how well the student tells children
    from people in their twenties inside one corpus. What cannot be measured is reported with the
    reason.
    """

    model_config = SettingsConfigDict(cli_prog_name="python -m train.probe")

    data: Path
    """folder that train.prepare or train.shard wrote"""
    student: Path
    """run of train.distill, or its last.pt; its best epoch is measured"""
    split: str = "dev"
    """split to measure on; the student must not have been trained on it"""
    channel: Preset = "full"
    """simulated telephone: clean, simple or full (train/telephone)"""
    limit: int | None = Field(None, ge=1)
    """at most so many utterances; the first of the split"""
    seed: int = 1
    """of channels, folds, shuffles and resampling"""
    as_json: bool = Field(False, validation_alias="json")
    """print the figures as JSON instead of tables"""
    picture: Path | None = None
    """PNG of the probe by age band to write"""

    def cli_cmd(self) -> None:
        """Entry point of the command line."""
        try:
            report = self.run()
        except (OSError, ValueError) as error:
            sys.exit(f"probe: {error}")
        if self.picture is not None:
            picture(report, self.picture)
        if self.as_json:
            print(json.dumps(report, indent=1, allow_nan=False))
        else:
            show(report, Console())

    def run(self) -> Report:
        """The figures, as :func:`shortcut_report` returns them.

        Raises:
            OSError, ValueError: folder, split or checkpoint cannot be used.
        """
        student = load_student(self.student)
        split = open_split(self.data, self.split)
        calls = TelephoneDataset(student.config.tree, ChannelSampler(self.channel), self.seed)
        with contextlib.redirect_stdout(sys.stderr):  # progress is not part of the answer
            batches = evaluation_batches(split, calls, limit=self.limit)
        utterances = {cut.id: utterance_of(cut) for cut in split.cuts()}
        return shortcut_report(student, batches, utterances, seed=self.seed)


if __name__ == "__main__":
    CliApp.run(Probe)
