"""Putting fetched streams into one container without encoding anything, inside the job's own process.

A run of ffmpeg does the same, for the processor time that it takes to start.
"""

import heapq
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Stream

from ytdl.child.errors import OF_THE_DISK, Refused

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,mpegts,ogg,mp3,aac,flac,wav"
"""What may be read. A stream that turns out to be a list of other files would be read as such by the library and by
ffmpeg, and what stands in those files would become the user's."""
_SAFE = {"protocol_whitelist": "file", "format_whitelist": FORMATS}
# What these containers say at their start is all there is to know; else the library decodes pictures to find out.
_TELLING = {b"ftyp": slice(4, 8), b"\x1aE\xdf\xa3": slice(0, 4)}
_BRIEFLY = {"probesize": "32"}
REPORT_SECONDS = 0.2
# Moment in seconds, packet.
Timed = tuple[float, "Packet[Any]"]


def join(
    sources: list[Path],
    kinds: list[list[str]],
    product: Path,
    muxer: str,
    tags: dict[str, str],
    report: Callable[[float], None],
) -> None:
    """Copies of each source the first stream of each kind it is listed with ("video", "audio") into the product.

    `report` gets the finished fraction, 0..1. Raises Refused("processing_failed"), and OSError for the disk.
    """
    try:
        with ExitStack() as stack:
            inputs = [stack.enter_context(open_local(source)) for source in sources]
            options = {"movflags": "+faststart"} if muxer in ("mp4", "ipod") else {}
            output = stack.enter_context(av.open(str(product), "w", format=muxer, options=options))
            output.metadata.update(tags)
            _copy(inputs, kinds, output, report)
    except (FFmpegError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            raise
        raise Refused("processing_failed", "The streams could not be put together.") from error


def open_local(path: Path) -> InputContainer:
    """A file of the job's, opened for reading; nothing that it names is opened with it."""
    with path.open("rb") as file:
        head = file.read(8)
    telling = any(head[place] == magic for magic, place in _TELLING.items())
    return av.open(str(path), options=_SAFE | (_BRIEFLY if telling else {}))


def _copy(
    inputs: list[InputContainer], kinds: list[list[str]], output: OutputContainer, report: Callable[[float], None]
) -> None:
    tracks = [_tracks(source, wanted, output) for source, wanted in zip(inputs, kinds, strict=True)]
    packets = [_packets(source, pairs) for source, pairs in zip(inputs, tracks, strict=True)]
    length = max((source.duration or 0) / av.time_base for source in inputs)
    reported = 0.0
    for moment, packet in heapq.merge(*packets, key=lambda timed: timed[0]):
        output.mux(packet)
        if length and time.monotonic() - reported > REPORT_SECONDS:
            reported = time.monotonic()
            report(moment / length)


def _tracks(source: InputContainer, wanted: list[str], output: OutputContainer) -> list[tuple[Stream, Stream]]:
    found = [next((stream for stream in source.streams if stream.type == kind), None) for kind in wanted]
    return [(stream, output.add_stream_from_template(stream, opaque=True)) for stream in found if stream]


def _packets(source: InputContainer, tracks: list[tuple[Stream, Stream]]) -> Iterator[Timed]:
    """In the order of decoding, moved so that the source begins at 0."""
    start = (source.start_time or 0) / av.time_base
    targets = {stream.index: target for stream, target in tracks}
    undated: dict[int, list[Packet[Any]]] = {stream.index: [] for stream, _ in tracks}
    for packet in source.demux([stream for stream, _ in tracks]):
        if not packet.size:
            continue  # the mark at the end of each stream
        index = packet.stream.index
        if packet.dts is None:
            undated[index].append(packet)
            continue
        for each in [*_dated(undated[index], packet), packet]:
            moment = _move(each, start)
            each.stream = targets[index]
            yield moment, each
        undated[index] = []
    if any(undated.values()):
        raise ValueError("packets without an order")


def _dated(packets: list["Packet[Any]"], following: "Packet[Any]") -> list["Packet[Any]"]:
    """Gives a moment of decoding to those at a start of which the container says none, counted back from the next.

    Matroska keeps moments of showing only, and where pictures are not shown in order the library learns the others
    from the first few.
    """
    step = following.duration or packets[0].duration if packets else 0
    for number, packet in enumerate(reversed(packets), 1):
        packet.dts = (following.dts or 0) - number * (step or 1)
    return packets


def _move(packet: "Packet[Any]", start: float) -> float:
    """Counts a packet's moments from the source's start; its moment of decoding, in seconds."""
    base = packet.time_base or Fraction(1, av.time_base)
    offset = round(start / base)
    packet.dts = (packet.dts or 0) - offset
    if packet.pts is not None:
        packet.pts -= offset
    return float(packet.dts * base)
