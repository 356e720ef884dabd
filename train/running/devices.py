"""Where a run computes: device, precision, processes."""

from __future__ import annotations

import os

import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision

from train.running.settings import Training


class _Autocast(MixedPrecision):
    """Computes in 16 bits where that is safe; Fabric's own also rounds the inputs to 16 bits."""

    def convert_input(self, data: object) -> object:
        """Samples and the teacher's embeddings stay as they are."""
        return data


def launch(settings: Training) -> Fabric:
    """Devices, precision and processes; under torchrun it joins the others.

    Raises:
        ValueError: the accelerator is not there, or not up to the precision.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    cuda = settings.accelerator != "cpu" and torch.cuda.is_available()
    if settings.accelerator == "cuda" and not cuda:
        raise ValueError("--accelerator cuda: torch finds no GPU")
    if settings.precision == "16-mixed" and not cuda:
        raise ValueError("--precision 16-mixed needs a GPU: take bf16-mixed")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", str(world)))
    fabric = Fabric(
        accelerator=settings.accelerator,
        devices=local,
        num_nodes=world // local,
        strategy="ddp" if world > 1 else "auto",
        plugins=None
        if settings.precision == "32-true"
        else _Autocast(settings.precision, "cuda" if cuda else "cpu"),
    )
    fabric.launch()
    return fabric
