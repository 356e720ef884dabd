"""The flags that every training run has."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from model.encoders import EncoderConfig
from model.encoders.ecapa import EcapaConfig
from model.encoders.resnet import ResNetConfig
from model.frontend import BINS
from train.command import Command

Backbone = Literal["ecapa", "ecapa-res2", "resnet", "resnet10"]


class Training(Command):
    """Flags of any run: data, network, schedule, machine."""

    data: list[str]
    """folder of train.prepare, train.shard or train.simulate_calls, or the address of shards;
    may be given repeatedly"""
    out: Path
    """folder for checkpoints, logs and result; an unfinished run there is continued"""
    exclude: Path | None = None
    """list of probable label errors that train.label_noise wrote"""
    init: Path | None = None
    """run whose best weights are where training begins; the network must be the same"""

    backbone: Backbone = "ecapa"
    """ecapa: depthwise, the cheap one; ecapa-res2: the paper's; resnet: ResNet34's shape; resnet10:
    one block a stage and half the frames, a sixth of its cost"""
    width: int = Field(0, ge=0)
    """channels of the encoder; 0 takes the backbone's: 160, 512 or 32"""
    frame_stride: int = Field(0, ge=0, le=2)
    """fbank frames per encoder frame of the ECAPAs; 0 takes the backbone's: 2, 1 for the paper's"""
    streaming: bool = True
    """causal, so that it can be served; else the paper's offline encoder"""
    embedding: int = Field(128, ge=1)
    """width of the representation"""
    dropout: float = Field(0.2, ge=0, lt=1)

    epochs: int = Field(16, ge=1)
    """with the full channel and batches of 32, dev gains no more after these (our corpora)"""
    patience: int = Field(0, ge=0)
    """stop after so many epochs without a better one on dev; 0 runs to the end"""
    epoch_clips: int | None = Field(None, ge=1)
    """utterances per epoch; default: as many as the train split has, in one draw each"""
    dev_clips: int = Field(4000, ge=1)
    """utterances of dev that are evaluated on, kept in memory"""
    batch_size: int = Field(32, ge=2)
    """utterances per step and process"""
    learning_rate: float = Field(2e-3, gt=0)
    """peak, after one epoch of warm-up; falls to zero along a cosine"""
    weight_decay: float = Field(0.02, ge=0)
    label_smoothing: float = Field(0.05, ge=0, lt=1)
    balance: float = Field(0.5, ge=0, le=1)
    """0 trains on gender x band cells as frequent as they are, 1 makes all equal"""
    shortest_crop: float = Field(2.0, gt=0)
    """seconds of speech: each batch draws its length between these two"""
    longest_crop: float = Field(6.0, gt=0)
    """seconds; shorter utterances are repeated, and every prefix is trained on"""
    tilt_db: float = Field(3.0, ge=0)
    """random response of handset and trunk, standard deviation in dB across the band"""
    warp: float = Field(0.0, ge=0, lt=0.3)
    """vocal tract length perturbation: frequencies stretched by up to this share"""
    mask_bins: int = Field(10, ge=0, lt=BINS)
    """widest of two mel bands flattened in each utterance"""
    age_group_weight: float = Field(1.0, ge=0)
    age_band_weight: float = Field(0.7, ge=0)
    ema: float = Field(0.998, ge=0, lt=1)
    """decay per step of the averaged weights that are evaluated and released"""
    seed: int = 1

    workers: int = Field(0, ge=0)
    """processes that decode and degrade; 0 does it between the steps"""
    threads: int = Field(0, ge=0)
    """torch threads; 0 leaves torch's choice"""
    accelerator: Literal["auto", "cpu", "cuda"] = "auto"
    """where to train; under torchrun every process takes its own device"""
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    """bf16-mixed is a quarter faster on CPUs with AMX, more on GPUs, and six times slower on CPUs
    without bfloat16; 16-mixed needs a GPU"""
    compile: bool = False
    """torch.compile the network: with bf16-mixed half the time, after a minute of compiling, where
    all batches are of one length (--shortest-crop as --longest-crop); otherwise it is slower"""
    save_minutes: float = Field(5.0, ge=0)
    """a checkpoint at least this often, and after every epoch"""

    def encoder(self) -> EncoderConfig:
        """The encoder that the flags describe; raises ValueError if it cannot be built."""
        if self.backbone == "resnet":
            return ResNetConfig(width=self.width or 32, causal=self.streaming, pooling="statistics")
        width = self.width or (160 if self.backbone == "ecapa" else 512)
        if self.backbone == "ecapa":
            # The compact shape at 160 channels, in proportion at others.
            aggregated, attention, squeeze = (round(width * f) for f in (1.6, 0.4, 0.3))
            return EcapaConfig(
                channels=width,
                stem_stride=self.frame_stride or 2,
                aggregated=aggregated,
                attention=attention,
                squeeze=squeeze,
                causal=self.streaming,
            )
        return EcapaConfig(
            channels=width,
            dilations=(2, 3, 4),
            kernel=3,
            res2_scale=8,
            stem_stride=self.frame_stride or 1,
            aggregated=3 * width,
            attention=max(16, width // 4),
            squeeze=max(16, width // 4),
            causal=self.streaming,
            global_context=not self.streaming,
        )

    def to_cli_args(self) -> list[str]:
        """The flags that differ from their defaults: what makes the same run again.

        Nothing of the machine; of a path the last part, which names the run or the list.
        """
        hidden = {"data", "out", "clean_data", "workers", "threads"}
        hidden |= {"accelerator", "save_minutes"}
        words = []
        for name, value in self.model_dump(exclude_defaults=True).items():
            flag = name.replace("_", "-")
            if name in hidden or value is None:
                continue
            if isinstance(value, bool):
                words.append(f"--{flag}" if value else f"--no-{flag}")
            else:
                words += [f"--{flag}", value.name if isinstance(value, Path) else str(value)]
        return words


_AFTERWARDS = {"--class-prior", "--patience"}
"""Flags that change nothing of what a checkpoint holds."""


def by_flag(words: list[str]) -> dict[str, str]:
    """Values by flag; a switch has the value "set"."""
    found: dict[str, str] = {}
    name = ""
    for word in words:
        if word.startswith("--"):
            name = word
            found[name] = "set"
        else:
            found[name] = word
    return found


def check_same_flags(words: list[str], before: list[str]) -> None:
    """A run that changed its recipe half-way could not be made again.

    Raises:
        ValueError: the flags differ from those that it was begun with, but for what may change.
    """
    ours, theirs = by_flag(words), by_flag(before)
    differing = [
        f"{name} was {theirs.get(name, 'absent')}, is {ours.get(name, 'absent')}"
        for name in sorted({*ours, *theirs} - _AFTERWARDS)
        if ours.get(name) != theirs.get(name)
    ]
    if differing:
        raise ValueError("; ".join(differing))
