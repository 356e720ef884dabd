"""Convert and validate protocol messages to plain types and back."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from streamer.audio.codec import SAMPLE_RATES, Encoding
from streamer.errors import FailedPrecondition, InvalidArgument
from streamer.inference.decision import Decider, Undecided
from streamer.inference.metadata import Metadata
from streamer.rpc import voicecohort_pb2 as pb
from streamer.session.events import Update
from streamer.session.session import CallConfig

ENCODINGS = {
    pb.AUDIO_ENCODING_MULAW: Encoding.MULAW,
    pb.AUDIO_ENCODING_ALAW: Encoding.ALAW,
    pb.AUDIO_ENCODING_LINEAR16: Encoding.LINEAR16,
}
_REASONS = {
    None: pb.UNDECIDED_REASON_UNSPECIFIED,
    Undecided.NO_SPEECH: pb.UNDECIDED_REASON_NO_SPEECH,
    Undecided.LITTLE_SPEECH: pb.UNDECIDED_REASON_LITTLE_SPEECH,
    Undecided.LOW_CONFIDENCE: pb.UNDECIDED_REASON_LOW_CONFIDENCE,
}
MAX_CHANNELS = 2
MAX_CALL_ID = 128


def duration(seconds: float) -> Duration:
    """Seconds, to the nanosecond."""
    made = Duration()
    _set(made, seconds)
    return made


def _seconds(config: pb.StreamConfig, field: str, low: float, high: float, default: float) -> float:
    if not config.HasField(field):  # type: ignore[arg-type]
        return default
    value: Duration = getattr(config, field)
    seconds = value.seconds + value.nanos / 1e9
    if not low <= seconds <= high:
        raise InvalidArgument(f"config.{field}", f"{seconds:g} s", f"{low:g} to {high:g} s")
    return seconds


def is_loggable(call_id: str) -> bool:
    """Whether a call id may be used and logged."""
    return len(call_id) <= MAX_CALL_ID and call_id.isascii() and call_id.isprintable()


def call_config(
    config: pb.StreamConfig,
    *,
    update_seconds: float,
    max_chunk_seconds: float,
    checkpoints: bool = False,
) -> CallConfig:
    """Validate a config.

    Args:
        config: as received.
        update_seconds: default.
        max_chunk_seconds: longest audio message.
        checkpoints: whether this server makes them.

    Raises:
        InvalidArgument: a value is not valid; names field and value.
        FailedPrecondition: the config requests a feature that this server lacks.
    """
    if config.encoding not in ENCODINGS:
        names = ", ".join(pb.AudioEncoding.Name(value) for value in ENCODINGS)
        raise InvalidArgument("config.encoding", config.encoding, f"one of {names}")
    if config.sample_rate not in SAMPLE_RATES:
        rates = " or ".join(map(str, SAMPLE_RATES))
        raise InvalidArgument("config.sample_rate", config.sample_rate, f"{rates} Hz")
    if len(config.channels) > MAX_CHANNELS:
        raise InvalidArgument("config.channels", f"{len(config.channels)} channels", "1 or 2")
    ignored = tuple(channel.ignored for channel in config.channels) or (False,)
    if all(ignored):
        raise InvalidArgument("config.channels", "every channel ignored", "classify at least one")
    if not is_loggable(config.call_id):
        raise InvalidArgument(
            "config.call_id",
            repr(config.call_id[:32]),
            f"at most {MAX_CALL_ID} printable ASCII characters",
        )
    requests_checkpoints = {
        "checkpoint_interval": config.HasField("checkpoint_interval"),
        "resume_from": bool(config.resume_from),
    }
    for field, requested in requests_checkpoints.items():
        if requested and not checkpoints:
            raise FailedPrecondition(f"config.{field}", "this server has no checkpoints")
    checkpoint_seconds = _seconds(config, "checkpoint_interval", 1.0, 600.0, 0.0) or None
    return CallConfig(
        call_id=config.call_id or uuid.uuid4().hex,
        encoding=ENCODINGS[config.encoding],
        sample_rate=config.sample_rate,
        ignored=ignored,
        update_seconds=_seconds(config, "update_interval", 0.1, 60.0, update_seconds),
        min_speech_seconds=_seconds(config, "min_speech", 0.0, 60.0, 0.0),
        speech_events=config.speech_events,
        max_chunk_seconds=max_chunk_seconds,
        checkpoint_seconds=checkpoint_seconds,
    )


def started(
    call: CallConfig, metadata: Metadata, *, idle_timeout: float, checkpoints: bool = False
) -> pb.StreamClassifyResponse:
    """First response of a call."""

    def labels(task: str, parents: Sequence[int] = ()) -> pb.TaskLabels:
        rule = metadata.decision[task]
        return pb.TaskLabels(
            labels=metadata.labels.of(task),
            parents=parents,
            min_speech=duration(max(rule.min_speech_seconds, call.min_speech_seconds)),
            min_confidence=rule.min_confidence,
        )

    return pb.StreamClassifyResponse(
        started=pb.Started(
            call_id=call.call_id,
            model=pb.ModelInfo(
                model_id=metadata.model_id,
                contract=metadata.contract,
                block=duration(metadata.block_seconds),
            ),
            gender=labels("gender"),
            age_group=labels("age_group"),
            age_band=labels("age_band", metadata.labels.parent),
            limits=pb.Limits(
                max_chunk=duration(call.max_chunk_seconds),
                idle_timeout=duration(idle_timeout),
                checkpoints=checkpoints,
            ),
            update_interval=duration(call.update_seconds),
        )
    )


SentPrediction = tuple[Update, pb.StreamClassifyResponse]
"""An update and its response."""


def prediction(
    update: Update,
    decider: Decider,
    min_speech_seconds: float,
    previous: SentPrediction | None = None,
) -> pb.StreamClassifyResponse:
    """A running or final prediction.

    Args:
        update: of the channel.
        decider: of the call's model.
        min_speech_seconds: that the call requested.
        previous: of the same channel; its decisions are reused if no block was processed since.
    """
    response = pb.StreamClassifyResponse()
    message = response.prediction
    if (
        previous is not None
        and previous[0].posteriors is update.posteriors
        and previous[0].speech_seconds == update.speech_seconds
    ):
        message.CopyFrom(previous[1].prediction)
    else:
        decisions = decider.decide(update.posteriors, update.speech_seconds, min_speech_seconds)
        for task, decision in zip(
            (message.gender, message.age_group, message.age_band), decisions, strict=True
        ):
            task.posterior.extend(decision.posterior)
            task.label = decision.label
            task.confidence = decision.confidence
            task.undecided = _REASONS[decision.undecided]
        _set(message.speech_time, update.speech_seconds)
    message.channel = update.channel
    message.sequence = update.sequence
    _set(message.audio_time, update.audio_seconds)
    _set(message.lost_time, update.lost_seconds)
    message.final = update.final
    return response


def _set(time: Duration, seconds: float) -> None:
    time.seconds, time.nanos = divmod(round(seconds * 1e9), 10**9)
    time.SetInParent()  # also where it is zero


def speech_event(channel: int, started: bool, seconds: float) -> pb.StreamClassifyResponse:
    """Response for the start or end of speech."""
    return pb.StreamClassifyResponse(
        speech=pb.SpeechEvent(channel=channel, started=started, audio_time=duration(seconds))
    )


def checkpoint(data: bytes, sequence: int) -> pb.StreamClassifyResponse:
    """Checkpoint that contains everything up to ``sequence``."""
    return pb.StreamClassifyResponse(checkpoint=pb.Checkpoint(data=data, sequence=sequence))
