"""Names that operators and gateways rely on: flags, metrics, log events, client API, protocol.

After an intended change, note it in CHANGELOG.md and run ``python -m tests.test_public_names``.
"""

import ast
import dataclasses
import inspect
import json
from pathlib import Path

import streamer.client
from streamer.client import Call, Client, Prediction, SpeechEvent, Task
from streamer.inference.metadata import Metadata
from streamer.observability.metrics import Metrics
from streamer.rpc import trunk_pb2, voicecohort_pb2
from streamer.settings import ServerSettings

FILE = Path(__file__).with_suffix(".json")
LEVELS = {"debug", "info", "warning", "error", "exception"}


def log_events():
    """Events of the server's log, from its source."""
    events = set()
    for path in Path(streamer.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in LEVELS
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "log"
            ):
                events |= {n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)}
    return sorted(events)


def protocol():
    """Fields of every public message with their numbers."""
    return {
        name: {field.name: field.number for field in message.fields}
        for module in (voicecohort_pb2, trunk_pb2)
        for name, message in sorted(module.DESCRIPTOR.message_types_by_name.items())
    }


def collect():
    return {
        "flags": [f"--{name.replace('_', '-')}" for name in ServerSettings.model_fields],
        "metrics": sorted(metric.name for metric in Metrics().registry.collect()),
        "log_events": log_events(),
        "model_metadata": list(Metadata.model_fields),
        "client": {
            "exports": streamer.client.__all__,
            "Client": str(inspect.signature(Client)),
            "Client.call": list(inspect.signature(Client.call).parameters)[1:],
            "Call": [name for name in vars(Call) if not name.startswith("_")],
            **{
                kind.__name__: [field.name for field in dataclasses.fields(kind)]
                for kind in (Prediction, SpeechEvent, Task)
            },
        },
        "protocol": protocol(),
    }


def test_public_names_are_unchanged():
    assert collect() == json.loads(FILE.read_text())


if __name__ == "__main__":
    entries = (f" {json.dumps(name)}: {json.dumps(value)}" for name, value in collect().items())
    FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n")
