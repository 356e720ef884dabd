"""The card's sections about the student itself: what it is, made of, trained by, and its limits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from scoring.tables import TASKS, Table, plural, task_name

from model_card.inputs import Inputs, ModelFile, public
from model_card.text import ATTRIBUTION, UNTESTED

FAMILIES = {"ecapa": "ECAPA-TDNN", "resnet": "ResNet"}
_OWN_PLACE = ("data", "shortcut", "shift", "dev_f1", "command", "commit", "seed", "quantised")
_NOT_SAID = "not said in the file"


def what_it_is(inputs: Inputs) -> str:
    """Architecture, size, cost, input and output."""
    model = inputs.model
    meta = model.metadata
    block = meta["block"] / meta["sample_rate"]
    rows: list[tuple[str, ...]] = [
        ("model", f"`{model.id}`, in `{model.name}`"),
        *(
            [("8-bit form", f"`{model.small}`, which the server takes on a CPU")]
            if model.small
            else []
        ),
        ("architecture", _architecture(model)),
        ("parameters", f"{model.parameters:,}"),
        ("file", f"{model.size / 1e6:.1f} MB, ONNX, metadata inside"),
        (
            "input",
            f"speech of one channel at {meta['sample_rate']:,} Hz, {1000 * block:g} ms a step",
        ),
        ("output", _outputs(meta)),
        ("memory of a call", _memory(meta)),
        ("work", f"{model.mflop:.0f} million operations in matrix products per second of speech"),
        ("cost", _cost(inputs)),
    ]
    return Table("", ("", ""), rows).markdown(words=True) + "\n\n" + _labels(meta)


def _memory(meta: dict[str, Any]) -> str:
    floats, cached = meta["state_size"], meta.get("cache_size", 0)
    parts = f"{floats:,} floats" + (f" and {cached:,} bytes" if cached else "")
    return f"{parts}, {(4 * floats + cached) / 1000:.0f} kB"


def _architecture(model: ModelFile) -> str:
    encoder = model.metadata.get("student", {}).get("encoder")
    if not encoder:
        return _NOT_SAID
    plain = dict(encoder)
    family = str(plain.pop("family", "ecapa"))
    causal = "causal " if plain.pop("causal", False) else ""
    details = ", ".join(f"{key.replace('_', ' ')} {_value(value)}" for key, value in plain.items())
    return f"{causal}{FAMILIES.get(family, family)} encoder with three heads ({details})"


def _outputs(meta: Mapping[str, Any]) -> str:
    widths = [f"{task_name(task)} ({len(meta['labels'][task])})" for task in TASKS]
    return f"posteriors after every step: {', '.join(widths)}"


def _cost(inputs: Inputs) -> str:
    cost = inputs.cost
    if cost is None:
        return "not measured for this card (`--cost` was not given)"
    total = cost["cpu_ms_per_call_s"]["total"]
    return (
        f"{plural(cost['max_calls'], 'live call')} on one core with p99 under {cost['bound_ms']:g} "
        f"ms; {total:.2f} CPU-ms per call-second, transport included ({public(cost['device'])})"
    )


def _labels(meta: Mapping[str, Any]) -> str:
    labels = meta["labels"]
    lower = meta.get("student", {}).get("tree", {}).get("lower_age")
    rows: list[tuple[str, ...]] = []
    for number, group in enumerate(labels["age_group"]):
        of = [i for i, up in enumerate(labels["parent"]) if up == number]
        bands = ", ".join(labels["age_band"][i] for i in of)
        rows.append((group, bands, *([_years(of, lower)] if lower else [])))
    header = ("age group", "age bands", "years")[: 3 if lower else 2]
    text = f"Gender is {' or '.join(labels['gender'])}."
    return f"{text}\n\n" + Table("", header, rows).markdown(words=True)


def _years(bands: Sequence[int], lower: Sequence[int]) -> str:
    """Ages of neighbouring bands, from the youngest age of each band."""
    first, last = lower[min(bands)], max(bands) + 1
    if last == len(lower):
        return f"{first} and older"
    return f"below {lower[last]}" if first == 0 else f"{first} to {lower[last] - 1}"


def data(inputs: Inputs) -> str:
    """Corpora and licences, from the file's metadata."""
    corpora = inputs.model.provenance.get("data")
    if not corpora:
        return f"Corpora of training: {_NOT_SAID}."
    rows: list[tuple[str, ...]] = [(name, str(corpora[name])) for name in sorted(corpora)]
    owed = [
        f"{name} ({ATTRIBUTION[name]})" if name in ATTRIBUTION else name
        for name, licence in rows
        if "BY" in licence.upper().replace("_", "-").split("-")
    ]
    text = Table("", ("corpus of training", "licence"), rows).markdown(words=True)
    text += "\n\nNo audio of these, and no row of them, is part of the model or of this card."
    return text + (f" Their licence asks for attribution: {', '.join(owed)}." if owed else "")


def training(inputs: Inputs) -> str:
    """Command, seed, commit and settings, from the file's metadata."""
    made = inputs.model.provenance
    settings = made.get("settings", {})
    command = public(str(made["command"])) if "command" in made else _NOT_SAID
    rows: list[tuple[str, ...]] = [
        ("command", f"`{command}`"),
        ("seed", _value(made.get("seed", settings.get("seed", _NOT_SAID)))),
        ("commit", f"`{public(str(made.get('commit', _NOT_SAID)))}`"),
    ]
    for name, value in _flat({k: v for k, v in made.items() if k not in _OWN_PLACE}):
        if name != "seed":
            rows.append((name, _value(value)))
    if made.get("shift"):
        rows.append(("answers shifted, chosen on dev", _shifts(made["shift"])))
    if made.get("dev_f1"):
        on_dev = ", ".join(f"{task_name(k)} {v:.3f}" for k, v in sorted(made["dev_f1"].items()))
        rows.append(("macro F1 on dev", on_dev))
    if "quantised" in made:
        rows.append(("8 bits", public(str(made["quantised"].get("command", _NOT_SAID)))))
    text = Table("", ("", ""), rows).markdown(words=True)
    if str(made.get("commit", "")).endswith("-dirty"):
        text += (
            "\n\nThe code had changes that are in no commit: it cannot be trained again exactly."
        )
    return text


def _shifts(by_task: Mapping[str, Mapping[str, float]]) -> str:
    """What was added to log posteriors, of the classes that it was added to."""
    texts = [
        f"{task_name(task)} {name} {value:+g}"
        for task, shift in sorted(by_task.items())
        for name, value in shift.items()
        if value
    ]
    return ", ".join(texts) or "none gained enough"


def _flat(plain: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Settings with the name of the innermost key, in order of names."""
    for key, value in sorted(plain.items()):
        if isinstance(value, Mapping):
            yield from _flat(value)
        else:
            yield key.replace("_", " "), value


def _value(value: Any) -> str:  # noqa: ANN401 - whatever JSON holds
    if isinstance(value, list | tuple):
        return " ".join(map(_value, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "none"
    return public(str(value)).replace("|", "\\|")


def limits(inputs: Inputs) -> str:
    """What the data cannot show."""
    said = [
        "**The telephone is simulated**: recordings coded as 8 kHz mu-law. The test has no real "
        "line, no handset and no call centre.",
        _korean(inputs),
        *_ages(inputs),
        *_few(inputs),
        *inputs.single["unmeasured"],
        *UNTESTED,
    ]
    return "\n".join(f"- {sentence}" for sentence in said)


def _korean(inputs: Inputs) -> str:
    rows = inputs.single["per_language"]
    if "ko" in rows:
        at = rows["ko"]
        counted = f"{plural(at['calls'], 'call')} of {plural(at['speakers'], 'speaker')}"
        return f"**Korean**: {counted} in the test. Nothing is claimed for Korean."
    if "ko" in rows.get("others", {}).get("languages", []):
        return "**Korean**: too few speakers in the test for a row of their own."
    known = "none in the test" if rows else "not known, the manifest does not name languages"
    return f"**Korean**: {known}. Nothing is claimed for Korean."


def _ages(inputs: Inputs) -> list[str]:
    bands = inputs.single["per_band"]
    labels = inputs.model.metadata["labels"]
    youngest, oldest = labels["age_band"][0], labels["age_band"][-1]
    said = []
    for name in (oldest, youngest):  # the ends of the scale, where corpora are thin
        at = bands.get(name)
        if at is None:
            said.append(f"**{name}**: nobody in the test.")
            continue
        counted = f"{plural(at['calls'], 'call')} of {plural(at['speakers'], 'speaker')}"
        if len(at["corpora"]) == 1:
            said.append(
                f"**{name}**: {counted} in the test, all from one corpus ({at['corpora'][0]}): a "
                "model can learn the corpus instead of the age."
            )
        else:
            said.append(f"**{name}**: {counted} in the test, {len(at['corpora'])} corpora.")
    return said


def _few(inputs: Inputs) -> list[str]:
    """Cells in which few speakers were heard."""
    least = (inputs.single["fairness"] or {}).get("least_speakers", 20)
    few = [
        f"{at['gender']} {at['age_band']} ({at['speakers']})"
        for at in inputs.single["per_cell"]
        if at["speakers"] < least
    ]
    return [f"**Fewer than {least} speakers** in the test: {', '.join(few)}."] if few else []
