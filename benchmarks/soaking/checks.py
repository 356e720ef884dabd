"""Evaluate a soak: growth with its uncertainty, p99 by phase, final predictions, failures."""

from __future__ import annotations

import argparse
import queue
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from load.generator import Observations
from load.processes import quantiles_ms
from soaking.callers import Tally

from streamer.audio.codec import Encoding
from streamer.errors import CallError
from streamer.inference.engine import Engine
from streamer.inference.model import OnnxModel
from streamer.inference.registry import ServedModel
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.session import CallConfig, CallSession
from streamer.transport.converters import prediction

BLOCKS = 20
"""The slope is fitted to means of so many blocks: single seconds are correlated."""
WARM_UP_SHARE = 0.2
"""Of the mixed phase, not evaluated: allocators and pools grow to their size."""
WARM_UP_SECONDS = 240.0
"""At least; a shorter soak gives no growth."""
SURE = 2.0
"""Standard errors beyond which a slope counts as growth."""
BOUND_PER_HOUR = {"rss_mb": 4.0, "file_descriptors": 2.0}
"""Growth that is tolerated even if it is significant."""
RESOLUTION = 4.0
"""A standard error above so many bounds leaves growth undecided."""
WINDOW_SECONDS = 10
WORST_RATIO = 2.0
"""Of p99 in the mixed phase to the quiet ones."""
WAIT_SECONDS = 60.0


class Phase(NamedTuple):
    """One part of a soak, in seconds since its begin."""

    name: str
    begin: float
    end: float

    def holds(self, at: float) -> bool:
        """Return whether a time is within the phase."""
        return self.begin <= at < self.end


def growth(at: Sequence[float], values: Sequence[float], name: str) -> dict[str, Any]:
    """Fit a straight line through block means; return its slope per hour.

    Args:
        at: seconds.
        values: at those times.
        name: of the values, as in :data:`BOUND_PER_HOUR`.

    Returns:
        ``per_hour``, ``error`` (standard), ``bound_per_hour`` and ``flat``: the slope is not
        significant or below the bound; None if the error is above :data:`RESOLUTION` bounds.
    """
    blocks = min(BLOCKS, len(at) // 2)
    bound = BOUND_PER_HOUR[name]
    if blocks < 4:  # too few for a slope with an error
        return {"per_hour": None, "error": None, "bound_per_hour": bound, "flat": None}
    times = [float(np.mean(part)) for part in np.array_split(np.array(at), blocks)]
    means = [float(np.mean(part)) for part in np.array_split(np.array(values), blocks)]
    (slope, _), covariance = np.polyfit(times, means, 1, cov=True)
    per_hour, error = 3600 * float(slope), 3600 * float(covariance[0][0]) ** 0.5
    grows = per_hour > max(bound, SURE * error)
    return {
        "per_hour": round(per_hour, 3),
        "error": round(error, 3),
        "bound_per_hour": bound,
        "flat": None if error > RESOLUTION * bound and not grows else not grows,
    }


def evaluated(phase: Phase) -> Phase:
    """Return the part of a phase in which growth is evaluated."""
    warm_up = max(WARM_UP_SECONDS, WARM_UP_SHARE * (phase.end - phase.begin))
    return phase._replace(begin=phase.begin + warm_up)


def latency_by_phase(
    due: Sequence[float], latency: Sequence[float], phases: Sequence[Phase]
) -> dict[str, Any]:
    """Return p50 and p99 of each phase and of all quiet ones, and ``p99_mixed_over_quiet``."""
    pairs = list(zip(due, latency, strict=True))
    names = list(dict.fromkeys(phase.name for phase in phases))
    result: dict[str, Any] = {}
    for name in [*names, "quiet_together"]:
        chosen = [
            phase
            for phase in phases
            if phase.name == name or (name == "quiet_together" and phase.name != "mixed")
        ]
        times = [took for at, took in pairs if any(phase.holds(at) for phase in chosen)]
        quantiles = quantiles_ms(times)
        result[name] = {
            "predictions": len(times),
            **{key: quantiles[key] for key in ("p50_ms", "p99_ms", "max_ms")},
        }
    quiet, mixed = result["quiet_together"]["p99_ms"], result["mixed"]["p99_ms"]
    ratio = round(mixed / quiet, 3) if quiet and mixed else None
    return {**result, "p99_mixed_over_quiet": ratio}


def windows(due: Sequence[float], latency: Sequence[float], seconds: float) -> list[dict[str, Any]]:
    """Return p50 and p99 of chunks due in each window of :data:`WINDOW_SECONDS`."""
    times, took = np.array(due), np.array(latency)
    result = []
    for begin in range(0, int(seconds), WINDOW_SECONDS):
        chosen = took[(times >= begin) & (times < begin + WINDOW_SECONDS)].tolist()
        quantiles = quantiles_ms(chosen)
        result.append({"second": begin, **{key: quantiles[key] for key in ("p50_ms", "p99_ms")}})
    return result


def result_of(
    options: argparse.Namespace,
    phases: list[Phase],
    observed: Observations,
    calls: int,
    wrong: list[str],
    tally: Tally,
    samples: list[dict[str, float]],
) -> dict[str, Any]:
    """Return the figures of a soak."""
    part = evaluated(phases[1])
    chosen = [sample for sample in samples if part.holds(sample["at"])]
    times = [sample["at"] for sample in chosen]
    end = phases[-1].end
    return {
        "minutes": options.minutes,
        "quiet_s": options.quiet,
        "phases": [phase._asdict() for phase in phases],
        "normal": {
            "calls": calls,
            "right": observed.finals - len(wrong),
            "wrong": len(wrong),
            "lost": calls - observed.finals - observed.refused,
            "refused": observed.refused,
            "errors": [*wrong, *observed.errors][:5],
        },
        "callers": {name: dict(ends) for name, ends in tally.ends.items()},
        "unexpected": tally.unexpected[:20],
        "refused_good": tally.refused_good,
        "latency": {
            **latency_by_phase(observed.due, observed.latency, phases),
            "late_sends_ms_p99": round(
                1000 * float(np.percentile(observed.lateness or [0], 99)), 2
            ),
        },
        "growth": {
            name: growth(times, [sample[name] for sample in chosen], name)
            for name in ("rss_mb", "file_descriptors")
        },
        "server_cpu_s": round(sum(sample["cpu"] for sample in samples), 1),
        "samples": samples,
        "windows": windows(observed.due, observed.latency, end),
    }


def failures(result: dict[str, Any]) -> list[str]:
    """Return the failures, one line each."""
    normal = result["normal"]
    found: list[str] = []
    found += [
        f"{normal[key]} normal calls {key}: {normal['errors']}"
        for key in ("wrong", "lost", "refused")
        if normal[key]
    ]
    if result["refused_good"]:
        found.append(f"{result['refused_good']} correct calls refused")
    if result["unexpected"]:
        found.append(f"unexpected ends: {result['unexpected']}")
    for name, grown in result["growth"].items():
        if grown["flat"] is False:
            found.append(f"{name} grows by {grown['per_hour']} ± {grown['error']} an hour")
    before, after = result["idle"]["before"], result["idle"]["after"]
    for name in ("file_descriptors", "threads"):
        if after[name] > before[name]:
            whose = f" ({_more(result['idle']['threads'])})" if name == "threads" else ""
            found.append(f"{name}: {before[name]} before, {after[name]} after{whose}")
    ratio = result["latency"]["p99_mixed_over_quiet"]
    if ratio is not None and ratio > WORST_RATIO:
        found.append(f"p99 is {ratio} times its quiet value")
    return found


def _more(threads: dict[str, dict[str, int]]) -> str:
    """Return which threads became more."""
    before, after = threads["before"], threads["after"]
    return ", ".join(
        f"{name} {before.get(name, 0)} before, {count} after"
        for name, count in after.items()
        if count > before.get(name, 0)
    )


class _Listener:
    def __init__(self) -> None:
        self.finals: dict[int, Update] = {}

    def on_prediction(self, update: Update) -> None:
        if update.final:
            self.finals[update.channel] = update

    def on_speech(self, channel: int, started: bool, audio_seconds: float) -> None:
        pass

    def on_progress(self) -> None:
        pass

    def on_error(self, error: CallError) -> None:
        raise error


class Reference:
    """Final predictions of a model without a server. A context manager.

    Args:
        model: ONNX file; None for the shipped one.
    """

    def __init__(self, model: Path | None = None) -> None:
        self._due: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._engine = Engine(OnnxModel(model, provider="cpu"), self._due.put)
        self._served = ServedModel.of(self._engine)

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.stop()

    def finals(
        self, chunks: Sequence[bytes], encoding: Encoding, sample_rate: int, channels: int = 1
    ) -> dict[int, pb.Prediction]:
        """Return the final prediction by channel of a call of these chunks."""
        listener = _Listener()
        config = CallConfig("reference", encoding, sample_rate, (False,) * channels)
        session = CallSession(config, self._engine, listener)
        for sequence, chunk in enumerate(chunks, start=1):
            session.audio(sequence, chunk)
        session.finish()
        while not session.done:
            self._due.get(timeout=WAIT_SECONDS)()
        session.close()
        return {
            channel: prediction(update, self._served.decider, 0.0).prediction
            for channel, update in listener.finals.items()
        }
