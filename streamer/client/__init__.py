"""Client library for gateways; ``python -m streamer.client FILE`` is its command line.

Example::

    async with Client("127.0.0.1:50051") as client:
        async with client.call(encoding="mulaw", channels=["caller"]) as call:
            await call.send(chunk)
            ...
            for final in await call.finish():
                print(final.gender.label, final.age_group.label)
"""

from streamer.client.api import Call, Client, Event, Prediction, Role, SpeechEvent, Task
from streamer.client.credentials import tls

__all__ = ["Call", "Client", "Event", "Prediction", "Role", "SpeechEvent", "Task", "tls"]
