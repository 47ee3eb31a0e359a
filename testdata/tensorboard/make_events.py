#!/usr/bin/env python3
"""An event file as TensorBoard writes it: events.tfevents beside this script. Made with tensorboard 2.21.0."""

from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

EVENTS = [
    (0, 1700000000.5, [("loss/code", 2.5), ("weight/code", 0.25)]),
    (1, 1700000001.25, [("loss/math", -1.5)]),
    (300, 1700000002.0, [("lr", 1e-4), ("loss/ü", 0.0)]),
    (5000000000, 1700000003.0, [("loss/code", float("inf"))]),
]


def main():
    """The version, then all events."""
    with open(Path(__file__).with_name("events.tfevents"), "wb") as file:
        records = RecordWriter(file)
        records.write(Event(wall_time=1700000000.0, file_version="brain.Event:2").SerializeToString())
        for step, time, scalars in EVENTS:
            values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars]
            event = Event(wall_time=time, step=step, summary=Summary(value=values))
            records.write(event.SerializeToString())
        records.flush()


if __name__ == "__main__":
    main()
