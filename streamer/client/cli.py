"""Stream a sound file as a telephone call: ``python -m streamer.client FILE``."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToDict
from rich.console import Console
from rich.live import Live

from streamer.client.api import Call, Client, Event, Role
from streamer.client.audio_file import TelephoneCall, read_as_call
from streamer.client.credentials import bearer, read_token, tls
from streamer.client.live_view import CallView

ROLES: tuple[Role, ...] = ("caller", "agent")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m streamer.client",
        description="Stream a sound file to a voicecohort server as a telephone call (8 kHz "
        "mu-law) and show the running predictions.",
        epilog="Any format that soundfile reads, any rate, 1 or 2 channels; of two, the first "
        "is the caller and the second the agent. Start a server with: python -m streamer.serve",
    )
    parser.add_argument("file", type=Path, help="sound file")
    parser.add_argument("--target", default="127.0.0.1:50051", help="HOST:PORT (%(default)s)")
    parser.add_argument(
        "--realtime", action="store_true", help="send in real time; else as fast as possible"
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per response instead of the view"
    )
    parser.add_argument("--chunk-ms", type=int, default=100, help="audio per message (%(default)s)")
    parser.add_argument(
        "--update-ms", type=int, default=500, help="audio between predictions (%(default)s)"
    )
    parser.add_argument(
        "--resumable",
        action="store_true",
        help="if the stream breaks, resume on another server, or on this one after a restart; "
        "--target may name several: ipv4:HOST:PORT,HOST:PORT",
    )
    secure = parser.add_argument_group("TLS", "any of these makes the connection a secure one")
    secure.add_argument("--tls", action="store_true", help="trust gRPC's default authorities")
    secure.add_argument("--ca", type=Path, metavar="PEM", help="trust this authority")
    secure.add_argument("--certificate", type=Path, metavar="PEM", help="use this certificate")
    secure.add_argument("--key", type=Path, metavar="PEM", help="its private key")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="FILE",
        help="send the token in this file; else the one in VOICECOHORT_TOKEN",
    )
    return parser


async def stream(call: Call, audio: TelephoneCall, *, chunk_seconds: float, realtime: bool) -> None:
    """Send a call and half-close; in real time each chunk is sent when its audio has ended."""
    start = time.monotonic()
    for index, chunk in enumerate(audio.chunks(chunk_seconds)):
        if realtime:
            await asyncio.sleep(max(0.0, start + (index + 1) * chunk_seconds - time.monotonic()))
        await call.send(chunk)
    await call.end_of_audio()


def _print_json(kind: str, content: object) -> None:
    print(json.dumps({kind: content}), flush=True)  # noqa: T201 - it is the output


async def classify(
    arguments: argparse.Namespace,
    audio: TelephoneCall,
    credentials: grpc.ChannelCredentials | None = None,
    token: str = "",
) -> None:
    """Stream the call and show the responses."""
    roles = ROLES[: audio.channels]
    view = CallView(str(arguments.file), roles, audio.seconds)
    async with (
        Client(arguments.target, credentials, token) as client,
        client.call(
            channels=roles,
            update_seconds=arguments.update_ms / 1000,
            speech_events=True,
            resumable=arguments.resumable,
        ) as call,
    ):
        sending = asyncio.create_task(
            stream(
                call,
                audio,
                chunk_seconds=arguments.chunk_ms / 1000,
                realtime=arguments.realtime,
            )
        )
        try:
            if arguments.json:
                _print_json(
                    "started", MessageToDict(call.started, preserving_proto_field_name=True)
                )
                await _receive(call, _show_json, _show_json_resumed)
            else:
                console = Console()
                with Live(view, console=console, refresh_per_second=10, transient=False):
                    await _receive(call, view.show, view.show_resumed)
            await sending
        finally:
            sending.cancel()


def _show_json(event: Event) -> None:
    kind = "prediction" if hasattr(event, "final") else "speech"
    _print_json(kind, dataclasses.asdict(event))


def _show_json_resumed(times: int) -> None:
    _print_json("resumed", {"times": times})


async def _receive(
    call: Call, show: Callable[[Event], None], show_resumed: Callable[[int], None]
) -> None:
    """Show the events, each after the number of resumptions if that has changed."""
    shown = 0
    async for event in call:
        if call.resumptions > shown:
            shown = call.resumptions
            show_resumed(shown)
        show(event)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return 1 if the call fails, 2 for a file that is not valid."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    for name, low in (("chunk_ms", 1), ("update_ms", 100)):
        if getattr(arguments, name) < low:
            parser.error(f"--{name.replace('_', '-')} {getattr(arguments, name)}: at least {low}")
    try:
        audio = read_as_call(arguments.file)
        files = (arguments.ca, arguments.certificate, arguments.key)
        credentials = tls(*files) if arguments.tls or any(files) else None
        token = read_token(arguments.token_file)
        bearer(token)
    except ValueError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 2
    try:
        asyncio.run(classify(arguments, audio, credentials, token))
    except grpc.aio.AioRpcError as error:
        print(f"{arguments.target}: {error.code().name}: {error.details()}", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
