"""Live view of a call in a terminal: one bar per class, updated during the call."""

from __future__ import annotations

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streamer.client.api import Prediction, SpeechEvent, Task

BAR_WIDTH = 24
NOTE = "perceived binary gender and an age band, as a model rates them; not identity"


class CallView:
    """Renders the latest prediction of every channel.

    Args:
        title: heading of the view.
        roles: role of each channel.
        seconds: length of the call.
    """

    def __init__(self, title: str, roles: Sequence[str], seconds: float) -> None:
        self._title, self._roles, self._seconds = title, roles, seconds
        self._latest: dict[int, Prediction] = {}
        self._speaking: set[int] = set()
        self._resumed = 0

    def show_resumed(self, times: int) -> None:
        """Show that the call was resumed ``times`` times so far."""
        self._resumed = times

    def show(self, event: Prediction | SpeechEvent) -> None:
        """Update the view with one event."""
        if isinstance(event, Prediction):
            self._latest[event.channel] = event
        elif event.started:
            self._speaking.add(event.channel)
        else:
            self._speaking.discard(event.channel)

    def __rich__(self) -> RenderableType:
        panels = [self._panel(channel) for channel in range(len(self._roles))]
        title = Text(self._title, style="bold")
        if self._resumed:
            times = "once" if self._resumed == 1 else f"{self._resumed} times"
            title.append(f" (resumed {times})", style="yellow")
        return Group(title, Columns(panels), Text(NOTE, style="dim"))

    def _panel(self, channel: int) -> Panel:
        prediction = self._latest.get(channel)
        mark = " ● speaking" if channel in self._speaking else ""
        title = f"{channel}: {self._roles[channel]}{mark}"
        if prediction is None:
            return Panel(Text("listening"), title=title, width=BAR_WIDTH + 30)
        rows = Table.grid(padding=(0, 1))
        for name in ("gender", "age_group", "age_band"):
            _task_rows(rows, name, getattr(prediction, name))
        progress = (
            f"{prediction.audio_time:5.1f} of {self._seconds:.1f} s, "
            f"speech {prediction.speech_time:.1f} s{', final' if prediction.final else ''}"
        )
        return Panel(Group(Text(progress), rows), title=title, width=BAR_WIDTH + 30)


def _task_rows(rows: Table, name: str, task: Task) -> None:
    verdict = task.label or f"undecided ({task.undecided.replace('_', ' ')})"
    rows.add_row(Text(name, style="bold"), Text(verdict, style="green" if task.label else "yellow"))
    for label, probability in task.posterior.items():
        bar = ProgressBar(total=1.0, completed=probability, width=BAR_WIDTH)
        rows.add_row(f"  {label}", bar, f"{probability:4.0%}")
