"""The language between the service, the fork server and a job: message types and their framing.

Imported on both sides, so it imports nothing but msgspec. Control messages are one datagram each on a
SOCK_SEQPACKET pair; a job's own frames run over a pipe, each with its length (4 bytes, big endian) in front. What the
service tells a job goes over a second pipe past the fork server: an account where it was asked for, then the go.
"""

import struct
from typing import Any, Literal

import msgspec

MAX_FRAME_BYTES = 256 * 1024
Stage = Literal["extracting", "downloading", "processing", "verifying"]


class _Hidden:
    """What holds secrets keeps them out of its repr, and so out of tracebacks and log lines."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Order(_Hidden, msgspec.Struct, frozen=True):
    """Everything one job needs to know. No text of a user reaches an option of yt-dlp through it.

    `url` is canonical, made by our own parser. `earlier_dirs` are folders of earlier attempts at the same
    download, newest first; a folder whose writer may still live is left alone. `proxy` is the way out that this
    job keeps to, from first to last; without it that of the setup. `account` is whether an earlier attempt found that
    the site wants a signed-in user. `max_file_bytes` goes before the setup's. Cookies never stand here: an order
    passes through the fork server.
    """

    job: str
    url: str
    quality: str
    format: str
    work_dir: str
    earlier_dirs: list[str] = []
    embed_metadata: bool = False
    proxy: str | None = None
    account: bool = False
    max_file_bytes: int | None = None


class Locked(msgspec.Struct, frozen=True, tag="locked"):
    """The site wants a signed-in user for this video: `code` is how it said so, None where it was not asked yet.

    The job waits for an `Account` on the pipe that also brings its go.
    """

    code: str | None = None


class Cookie(msgspec.Struct, frozen=True, array_like=True):
    """One cookie as a browser exports it. `host` has no dot in front; `expires` is in seconds since 1970, None for the
    life of a browser's session."""

    host: str
    subdomains: bool
    path: str
    secure: bool
    expires: int | None
    name: str
    value: str

    def __repr__(self) -> str:
        """Without the value: a traceback or a log line may show it."""
        return f"Cookie({self.name!r}, {self.host!r})"


class Account(_Hidden, msgspec.Struct, frozen=True):
    """The cookies that the download's own user has for the site, or why there are none that could be used."""

    cookies: list[Cookie] = []
    missing: Literal["none", "expired", "refused", "unreadable"] = "none"


class Metadata(msgspec.Struct, frozen=True, tag="metadata"):
    """What the site says about the video and the streams that were chosen; sent once, before the transfer.

    `needed_bytes` is what the job may yet write to the disk, from exact sizes or from bit rates; None when the site
    says neither. The job waits for its go after this frame. `signed_in` is whether the site took the user's cookies.
    """

    video_id: str
    extractor: str
    title: str
    uploader: str | None = None
    duration_seconds: float | None = None
    thumbnail_url: str | None = None
    width: int | None = None
    height: int | None = None
    total_bytes: int | None = None
    needed_bytes: int | None = None
    signed_in: bool = False


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """How far the job is over all its streams; `percent` is 0..100 and never falls.

    `downloaded_bytes` is what is there altogether, `fetched_bytes` what this attempt itself has transferred.
    """

    stage: Stage
    percent: float
    downloaded_bytes: int = 0
    total_bytes: int | None = None
    speed_bytes_per_second: float | None = None
    eta_seconds: float | None = None
    fetched_bytes: int = 0


class Done(msgspec.Struct, frozen=True, tag="done"):
    """A verified, synced and hashed file inside the job's folder.

    `fetched_bytes` is what this attempt transferred, `resumed_bytes` what it took over from an earlier one.
    """

    path: str
    size_bytes: int
    sha256: str
    content_type: str
    ext: str
    width: int | None = None
    height: int | None = None
    fps: float | None = None
    duration_seconds: float | None = None
    video_codec: str | None = None
    audio_codec: str | None = None
    format_note: str = ""
    fetched_bytes: int = 0
    resumed_bytes: int = 0


class Fault(msgspec.Struct, frozen=True, tag="fault"):
    """Why the job gave up: a code of `ytdl.reasons` and a sentence that is safe to show."""

    code: str
    message: str
    retry_after_seconds: float | None = None
    fetched_bytes: int = 0


Frame = Locked | Metadata | Progress | Done | Fault


class Setup(_Hidden, msgspec.Struct, frozen=True, tag="setup"):
    """First message to a fork server: what is the same for all its jobs."""

    allowed_extractors: list[str]
    ffmpeg: str | None = None
    deno: str | None = None
    slots: list[str] = []
    proxy: str | None = None
    trust_system_certificates: bool = False
    extractor_args: str = ""
    cookies_file: str | None = None
    allowed_networks: list[str] = []
    socket_timeout_seconds: float = 20.0
    max_file_bytes: int = 16 * 1024**3
    max_memory_bytes: int = 1024**3
    max_cpu_seconds: int = 4 * 3600
    niceness: int = 5


class Start(msgspec.Struct, frozen=True, tag="start"):
    """Fork a job; three descriptors come with it: its frame pipe, its stderr, and the pipe that brings its go."""

    number: int
    order: Order


class Try(msgspec.Struct, frozen=True, tag="try"):
    """Fork a job that does nothing. That it is `Ended`, with a status of 0, says that others can be forked as well."""

    number: int


class Kill(msgspec.Struct, frozen=True, tag="kill"):
    """Kill a job's whole process group; unknown numbers are ignored, they have ended."""

    number: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The fork server is warm. `tools` names versions and what is wrong with them."""

    tools: dict[str, Any]


class Started(msgspec.Struct, frozen=True, tag="started"):
    """The job runs as leader of process group `pid`."""

    number: int
    pid: int


class Ended(msgspec.Struct, frozen=True, tag="ended"):
    """No process of the job is left. `status` is a wait status; usage covers ffmpeg too."""

    number: int
    status: int
    peak_memory_bytes: int
    cpu_seconds: float


Request = Setup | Start | Try | Kill
Report = Ready | Started | Ended

_encode = msgspec.json.Encoder().encode
decode_frame = msgspec.json.Decoder(Frame).decode
decode_request = msgspec.json.Decoder(Request).decode
decode_report = msgspec.json.Decoder(Report).decode
decode_account = msgspec.json.Decoder(Account).decode


def encode(message: Request | Report) -> bytes:
    """One control datagram."""
    return _encode(message)


def pack(frame: Frame | Account) -> bytes:
    """A frame as it goes over a pipe: length, then JSON."""
    body = _encode(frame)
    return struct.pack(">I", len(body)) + body


def unpack_length(head: bytes) -> int:
    """Length of the body that follows; ValueError when no honest child would send such a one."""
    (length,) = struct.unpack(">I", head)
    if not 0 < length <= MAX_FRAME_BYTES:
        raise ValueError(f"a frame of {length} bytes")
    return int(length)
