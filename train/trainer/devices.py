"""Training in 16 bits where that is safe.

Where a run computes: device, precision, processes.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

import torch
from lightning_fabric.plugins import MixedPrecision

from train.trainer.settings import Training


class Autocast(MixedPrecision):
    """Computes in 16 bits where that is safe; Fabric's own also rounds the inputs to 16 bits."""

    def convert_input(self, data: object) -> object:
        """Samples and the teacher's embeddings stay as they are."""
        return data


if TYPE_CHECKING:
    from lightning_fabric import Fabric

_log = logging.getLogger(__name__)


def _has_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 itself; torch imitates it otherwise."""
    return any(has for name, has in torch.cpu.get_capabilities().items() if "bf16" in name)


def launch(settings: Training) -> Fabric:
    """Devices, precision and processes; under torchrun it joins the others.

    Raises:
        ValueError: the accelerator is not there, or not up to the precision.
    """
    # Two seconds, which --help need not wait for.
    from lightning_fabric import Fabric  # noqa: PLC0415

    from train.trainer.devices import Autocast  # noqa: PLC0415

    if settings.threads:
        torch.set_num_threads(settings.threads)
    cuda = settings.accelerator != "cpu" and torch.cuda.is_available()
    if settings.accelerator == "cuda" and not cuda:
        raise ValueError("--accelerator cuda: torch finds no GPU")
    if settings.precision == "16-mixed" and not cuda:
        raise ValueError("--precision 16-mixed needs a GPU: take bf16-mixed")
    if settings.precision == "bf16-mixed" and not cuda and not _has_bfloat16():
        _log.warning(
            "--precision bf16-mixed: this CPU has no instructions for it, and takes several times "
            "as long as with 32-true"
        )
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        plugins=None
        if settings.precision == "32-true"
        else Autocast(settings.precision, "cuda" if cuda else "cpu"),
    )
    fabric.launch()
    return fabric
