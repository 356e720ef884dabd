"""How much of the gender error is on speakers whose label their pitch contradicts.

    python benchmarks/implausible.py --manifest MANIFEST.tsv --split test --json OUT

Every adult utterance of known gender is streamed through the real server as accuracy.py does, and
its median pitch is measured apart from it (autocorrelation, train/doubts/voice.py). A speaker
labelled male who speaks above --male-hz, or labelled female below --female-hz, is *implausible*:
the label may be wrong, or the voice unusual, which nobody can tell from here. The bounds leave a
wide middle, 140 to 190 Hz, where nobody is. Nothing is left out of the figures that we publish;
this says what they are made of.

JSON keys: ``model``, ``split``, ``per_speaker``, ``calls``, ``speakers``, bounds ``male_hz`` and
``female_hz``; ``f1`` and ``accuracy`` of all {value, interval}, and ``f1_plausible``,
``accuracy_plausible`` of the calls of plausible speakers; ``implausible`` {speakers, calls,
errors}; ``errors`` of all calls; ``ceiling``: accuracy of somebody who answers by the voice, so
that each implausible call counts as wrong and every other one as right; ``per_corpus`` {corpus:
{speakers, calls, errors, implausible_speakers, implausible_calls, implausible_errors}};
``per_cell`` {age band: {gender: the same and ``median_hz`` over speakers, None if nobody's pitch
is known}}.
Intervals: see intervals.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gender_peers.calls import adults
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scoring.calls import Outcome, build, make_calls
from scoring.manifest import read_manifest
from scoring.plans import Plan, plans
from scoring.scores import Classes, final_choice, score

from streamer.audio.codec import Encoding, decode
from streamer.client import Client
from streamer.process.local_server import local_server
from train.label_quality.voice import MEDIAN_PITCH, describe, hertz

MALE_HZ, FEMALE_HZ = 190.0, 140.0


async def answers(target: str, todo: Sequence[Plan], concurrency: int) -> tuple[list[Outcome], Any]:
    """Calls through the server at ``target``, and the classes of its student."""
    async with Client(target) as client:
        async with client.call() as probe:
            classes = Classes.of(probe.started)
            await probe.finish()
        made = await make_calls(
            client, todo, band="full", concurrency=concurrency, done=lambda _: None
        )
    return made, classes


def pitch_of(plan: Plan) -> float:
    """Median pitch of a call in Hz; NaN where too little of it is voiced."""
    described = describe(decode(build(plan, "full").data, Encoding.MULAW))
    median = float(described[MEDIAN_PITCH])
    return hertz(median) if np.isfinite(median) else float("nan")


def implausible(
    pitch: dict[str, list[float]], gender: dict[str, str], low: float, high: float
) -> set[str]:
    """Speakers whose median over their calls lies on the other side.

    Args:
        pitch: Hz of the calls of each speaker; NaN is left out, a speaker of only those is none.
        gender: label of each speaker.
        low: Hz, below which nobody is expected to be female.
        high: Hz, above which nobody is expected to be male.
    """
    found = set()
    for who, values in pitch.items():
        middle = middle_of(values)
        if middle is None:
            continue
        if middle > high if gender[who] == "male" else middle < low:
            found.add(who)
    return found


def middle_of(values: Sequence[float]) -> float | None:
    """Median of the known pitches, Hz; None if there are none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.median(known)) if known else None


def counted(some: Sequence[Outcome], doubted: set[str]) -> dict[str, int]:
    """Calls, errors and speakers, and how many of each are implausible."""
    people = {o.plan.person for o in some}
    wrong = [o for o in some if final_choice(o, "gender") != o.plan.gender]
    return {
        "calls": len(some),
        "errors": len(wrong),
        "implausible_calls": sum(o.plan.person in doubted for o in some),
        "implausible_errors": sum(o.plan.person in doubted for o in wrong),
        "speakers": len(people),
        "implausible_speakers": len(people & doubted),
    }


def result_of(
    outcomes: Sequence[Outcome],
    classes: Classes,
    doubted: set[str],
    options: argparse.Namespace,
    pitch: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """The JSON that the module documents; ``pitch`` as of :func:`implausible`."""

    def figures(some: Sequence[Outcome]) -> tuple[dict[str, Any], dict[str, Any]]:
        scores = score(some, classes, "gender", lambda o: final_choice(o, "gender"))
        interval = scores["interval"]
        return (
            {"value": scores["f1"], "interval": interval["f1"]},
            {"value": scores["accuracy"], "interval": interval["accuracy"]},
        )

    counts = {
        corpus: counted([o for o in outcomes if o.plan.corpus == corpus], doubted)
        for corpus in sorted({o.plan.corpus for o in outcomes})
    }
    total = counted(outcomes, doubted)
    cells: dict[str, dict[str, Any]] = defaultdict(dict)
    for band, gender in sorted({(o.plan.age_band, o.plan.gender) for o in outcomes}):
        some = [o for o in outcomes if (o.plan.age_band, o.plan.gender) == (band, gender)]
        middles = [middle_of(pitch.get(who, ())) for who in {o.plan.person for o in some}]
        middle = middle_of([hz for hz in middles if hz is not None])
        cells[band][gender] = {**counted(some, doubted), "median_hz": middle}
    f1, accuracy = figures(outcomes)
    f1_plausible, accuracy_plausible = figures(
        [outcome for outcome in outcomes if outcome.plan.person not in doubted]
    )
    return {
        "model": ", ".join(sorted({o.model for o in outcomes} - {""})),
        "split": options.split,
        "per_speaker": options.per_speaker,
        "calls": total["calls"],
        "speakers": total["speakers"],
        "male_hz": options.male_hz,
        "female_hz": options.female_hz,
        "f1": f1,
        "accuracy": accuracy,
        "errors": total["errors"],
        "implausible": {
            "speakers": total["implausible_speakers"],
            "calls": total["implausible_calls"],
            "errors": total["implausible_errors"],
        },
        "f1_plausible": f1_plausible,
        "accuracy_plausible": accuracy_plausible,
        "ceiling": 1 - total["implausible_calls"] / total["calls"],
        "per_corpus": counts,
        "per_cell": dict(cells),
    }


def show(result: dict[str, Any], console: Console) -> None:
    """A table by corpus, and what it comes to."""
    table = Table("corpus", "speakers", "implausible", "calls", "of those", "errors", "of those")
    for corpus, at in result["per_corpus"].items():
        cells = ("speakers", "implausible_speakers", "calls", "implausible_calls", "errors")
        table.add_row(corpus, *(str(at[name]) for name in (*cells, "implausible_errors")))
    console.print(table)
    console.print(
        f"macro F1 {result['f1']['value']:.3f}, of plausible speakers "
        f"{result['f1_plausible']['value']:.3f}; accuracy of an answer by the voice alone at most "
        f"{result['ceiling']:.3f}"
    )


def main() -> int:
    """Command line; 2 for a manifest that is none."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--manifest", type=Path, required=True, help="as for accuracy.py")
    parser.add_argument("--split", required=True, help="value of the column split")
    parser.add_argument("--per-speaker", action="store_true", help="a call per speaker")
    parser.add_argument("--male-hz", type=float, default=MALE_HZ, help="(%(default)s)")
    parser.add_argument("--female-hz", type=float, default=FEMALE_HZ, help="(%(default)s)")
    parser.add_argument("--model", type=Path, help="ONNX file (the server's default)")
    parser.add_argument("--concurrency", type=int, default=16, help="calls at a time (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all figures")
    options = parser.parse_args()
    try:
        utterances = adults(read_manifest(options.manifest, options.split))
        todo = plans(utterances, per_speaker=options.per_speaker)
    except (OSError, ValueError) as error:
        print(f"--manifest: {error}", file=sys.stderr)
        return 2
    model = ("--model", str(options.model)) if options.model else ()
    with local_server(*model) as server:
        outcomes, classes = asyncio.run(answers(server.target, todo, options.concurrency))
    pitch: dict[str, list[float]] = defaultdict(list)
    for plan in track(todo, "pitch", transient=True):
        pitch[plan.person].append(pitch_of(plan))
    gender = {plan.person: plan.gender for plan in todo}
    doubted = implausible(pitch, gender, options.female_hz, options.male_hz)
    result = result_of(outcomes, classes, doubted, options, pitch)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    show(result, Console())
    return 0


if __name__ == "__main__":
    sys.exit(main())
