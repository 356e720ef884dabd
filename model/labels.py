"""The label tree: gender, age superclass (``age_group``) over age subclass (``age_band``).

The paper publishes no tree; the default is ours (README, "What it predicts"). All labels are
of *perceived, binary* gender and of an age *band*.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

TASKS = ("gender", "age_group", "age_band")
"""The three heads, in the order of the ONNX outputs."""


@dataclass(frozen=True)
class LabelTree:
    """Class names of every task and the two-level age hierarchy.

    Attributes:
        gender: names of the gender classes.
        bands: superclass name -> its subclass names, both in age order.
        lower_age: subclass name -> youngest age in years that belongs to it.

    Raises:
        ValueError: a subclass appears under two superclasses or has no lower age.
    """

    gender: tuple[str, ...]
    bands: Mapping[str, tuple[str, ...]]
    lower_age: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(set(self.age_band)) != len(self.age_band):
            raise ValueError(f"an age band stands under two age groups: {dict(self.bands)}")
        missing = [band for band in self.age_band if band not in self.lower_age]
        if missing:
            raise ValueError(f"no lower age for the bands {missing}")

    @property
    def age_group(self) -> tuple[str, ...]:
        """Superclass names, youngest first."""
        return tuple(self.bands)

    @property
    def age_band(self) -> tuple[str, ...]:
        """Subclass names, youngest first."""
        return tuple(band for group in self.bands.values() for band in group)

    @property
    def parent(self) -> tuple[int, ...]:
        """For each subclass, the index of its superclass."""
        return tuple(i for i, group in enumerate(self.bands.values()) for _ in group)

    def classes(self, task: str) -> tuple[str, ...]:
        """Class names of ``task``, one of :data:`TASKS`; raises KeyError for another name."""
        return {"gender": self.gender, "age_group": self.age_group, "age_band": self.age_band}[task]

    def group_of(self, band: str) -> str:
        """Superclass name of a subclass; raises ValueError if the tree lacks it."""
        return self.age_group[self.parent[self.age_band.index(band)]]

    def band_of_age(self, age: float) -> str:
        """Subclass of an age in years; raises ValueError for a negative age."""
        fitting = [band for band in self.age_band if self.lower_age[band] <= age]
        if not fitting:
            raise ValueError(f"age {age} is below every band of the tree")
        return max(fitting, key=lambda band: self.lower_age[band])

    def to_dict(self) -> dict[str, object]:
        """Plain form for the ONNX metadata; :meth:`from_dict` reverses it."""
        return {
            "gender": list(self.gender),
            "age_group": list(self.age_group),
            "age_band": list(self.age_band),
            "parent": list(self.parent),
            "lower_age": [self.lower_age[band] for band in self.age_band],
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Sequence[object]]) -> LabelTree:
        """Inverse of :meth:`to_dict`."""
        groups = [str(name) for name in plain["age_group"]]
        names = [str(name) for name in plain["age_band"]]
        parent = [int(str(index)) for index in plain["parent"]]
        return LabelTree(
            gender=tuple(str(name) for name in plain["gender"]),
            bands={
                group: tuple(b for b, p in zip(names, parent, strict=True) if p == i)
                for i, group in enumerate(groups)
            },
            lower_age={b: int(str(a)) for b, a in zip(names, plain["lower_age"], strict=True)},
        )


DEFAULT_TREE = LabelTree(
    gender=("female", "male"),
    bands={
        "child": ("child",),
        "young": ("teens", "20s", "30s"),
        "middle": ("40s", "50s"),
        "senior": ("60+",),
    },
    lower_age={"child": 0, "teens": 13, "20s": 20, "30s": 30, "40s": 40, "50s": 50, "60+": 60},
)
