"""Packets of a Perfetto trace: tracks, slices, instants, counters, and the arrows between them.

They are written one by one, in the order of their times; the same calls make the same bytes.
Format: https://perfetto.dev/docs/reference/synthetic-track-event
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, NamedTuple

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import TracePacket, TrackEvent
from perfetto.trace_builder.proto_builder import StreamingTraceProtoBuilder

from capshm.records import Datum

_SEQUENCE = 1  # all packets are of one


class Flows(NamedTuple):
    """The arrows through one event: those that go on from it, and those that end there."""

    onward: list[int]
    ending: list[int]


class Event(NamedTuple):
    """What a slice or an instant shows. about: what is listed when it is clicked."""

    name: str
    category: str
    about: Mapping[str, Datum]
    flows: Flows = Flows([], [])


class Packets:
    """A trace that is being written. now: the time of the next packet, in ns; set forward, never back."""

    def __init__(self, file: IO[bytes]) -> None:
        self._builder = StreamingTraceProtoBuilder(file)
        self._is_begun = False
        self.now = 0
        self.events = 0

    # Tracks. Each has a number above zero, and is described before anything happens on it.

    def group(self, track: int, name: str) -> None:
        """A track by itself."""
        self._describe(track).track_descriptor.name = name
        self._end()

    def counter(self, track: int, name: str, group: int) -> None:
        """A track of numbers, below a group."""
        descriptor = self._describe(track).track_descriptor
        descriptor.name, descriptor.parent_uuid = name, group
        descriptor.counter.SetInParent()
        self._end()

    def process(self, track: int, pid: int, name: str, label: str) -> None:
        """A process's track."""
        descriptor = self._describe(track).track_descriptor
        descriptor.process.pid, descriptor.process.process_name = pid, name
        descriptor.process.process_labels.append(label)
        self._end()

    # What happens now on a track

    def begin(self, track: int, event: Event) -> None:
        """The beginning of a slice, inside those that have begun on the track."""
        self._show(track, event, TrackEvent.TYPE_SLICE_BEGIN)

    def end(self, track: int) -> None:
        """The end of the slice that has begun last."""
        self._happen(track, TrackEvent.TYPE_SLICE_END)
        self._end()

    def instant(self, track: int, event: Event) -> None:
        """Something without a length."""
        self._show(track, event, TrackEvent.TYPE_INSTANT)

    def count(self, track: int, value: int) -> None:
        """A counter's value from now on."""
        self._happen(track, TrackEvent.TYPE_COUNTER).counter_value = value
        self._end()

    def _show(self, track: int, event: Event, kind: int) -> None:
        shown = self._happen(track, kind)
        shown.name = event.name
        shown.categories.append(event.category)
        shown.flow_ids.extend(event.flows.onward)
        shown.terminating_flow_ids.extend(event.flows.ending)
        for key, value in event.about.items():
            note = shown.debug_annotations.add(name=key)
            if isinstance(value, int):
                note.int_value = value
            else:
                note.string_value = value if isinstance(value, str) else ", ".join(map(str, value))
        self._end()

    def _happen(self, track: int, kind: int) -> TrackEvent:
        self.events += 1
        packet = self._begin()
        packet.timestamp = self.now
        packet.track_event.type, packet.track_event.track_uuid = kind, track
        return packet.track_event

    def _describe(self, track: int) -> TracePacket:
        packet = self._begin()
        packet.track_descriptor.uuid = track
        return packet

    def _begin(self) -> TracePacket:
        self._packet = self._builder.create_packet()
        self._packet.trusted_packet_sequence_id = _SEQUENCE
        if not self._is_begun:  # whoever reads only a part knows that nothing came before
            self._packet.sequence_flags = TracePacket.SEQ_INCREMENTAL_STATE_CLEARED
            self._is_begun = True
        return self._packet

    def _end(self) -> None:
        self._builder.write_packet(self._packet)
