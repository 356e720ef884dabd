"""The encoders by name: what a student or a teacher may be built around."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from model.encoders.ecapa import Ecapa, EcapaConfig
from model.encoders.resnet import ResNet, ResNetConfig

EncoderConfig = EcapaConfig | ResNetConfig
Encoder = Ecapa | ResNet

FAMILIES: Mapping[str, type[EncoderConfig]] = {"ecapa": EcapaConfig, "resnet": ResNetConfig}


def build_encoder(config: EncoderConfig) -> Encoder:
    """The encoder of a configuration."""
    return Ecapa(config) if isinstance(config, EcapaConfig) else ResNet(config)


def family_of(config: EncoderConfig) -> str:
    """Name of the family a configuration belongs to, a key of :data:`FAMILIES`."""
    return next(name for name, kind in FAMILIES.items() if isinstance(config, kind))


def name_of(config: EncoderConfig) -> str:
    """Family and width, as in ``ecapa160``."""
    width = config.channels if isinstance(config, EcapaConfig) else config.width
    return f"{family_of(config)}{width}"


def to_dict(config: EncoderConfig) -> dict[str, Any]:
    """Plain form for checkpoints and metadata; :func:`from_dict` reverses it."""
    return {"family": family_of(config), **asdict(config)}


def from_dict(plain: Mapping[str, Any]) -> EncoderConfig:
    """Inverse of :func:`to_dict`; files from before ResNet name no family and are ECAPA.

    Raises:
        ValueError: an unknown family.
    """
    fields: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in plain.items()
    }
    family = str(fields.pop("family", "ecapa"))
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is none of {', '.join(FAMILIES)}")
    return EcapaConfig(**fields) if family == "ecapa" else ResNetConfig(**fields)
