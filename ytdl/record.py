"""A download as its users see it: what they ask for, what they are answered, how a row becomes that."""

import hashlib
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec

from ytdl import urls
from ytdl.db import Row
from ytdl.reasons import WAITS, WaitCode
from ytdl.titles import title_name

Quality = Literal["best", "2160p", "1440p", "1080p", "720p", "480p", "360p", "240p", "144p", "worst"]
Format = Literal["mp4", "webm", "mkv", "any", "mp3", "m4a", "opus", "flac", "wav"]
Status = Literal["queued", "downloading", "processing", "uploading", "completed", "failed", "cancelled", "expired"]
# A moment without its offset could mean any of two dozen; it is refused.
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
ENDED = frozenset({"completed", "failed", "cancelled", "expired"})


class NewDownload(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """`quality` is a cap on the shorter side: nothing above it is ever delivered. A higher `priority` comes first
    among the same user's downloads; between users the turn is fair, whatever their priorities."""

    url: Annotated[
        str,
        msgspec.Meta(
            max_length=urls.MAX_LENGTH, description="Address of one YouTube video.", extra_json_schema={"minLength": 1}
        ),
    ]
    quality: Quality = "best"
    format: Format = "mp4"
    embed_metadata: bool = False
    priority: Annotated[int, msgspec.Meta(ge=0, le=9)] = 5


class Progress(msgspec.Struct, frozen=True):
    stage: str
    percent: float
    downloaded_bytes: int
    total_bytes: int | None
    speed_bytes_per_second: float | None
    eta_seconds: float | None


class File(msgspec.Struct, frozen=True):
    name: str
    size_bytes: int
    content_type: str
    sha256: str
    url: str


class Failure(msgspec.Struct, frozen=True):
    code: str
    message: str
    retryable: bool
    hint: str


class Waiting(msgspec.Struct, frozen=True):
    """What keeps a queued download from its turn, with none of its attempts used up. `until` is when it may go on at
    the earliest, where that is known."""

    code: WaitCode
    message: str
    until: Moment | None


class Download(msgspec.Struct, frozen=True):
    """`queue_position` counts the same user's downloads before this one; known in single answers. `waiting` is null
    in ordinary queueing."""

    id: UUID
    url: str
    canonical_url: str
    extractor: str
    video_id: str
    status: Status
    quality: Quality
    format: Format
    options: dict[str, Any]
    title: str | None
    uploader: str | None
    duration_seconds: float | None
    thumbnail_url: str | None
    width: int | None
    height: int | None
    progress: Progress
    file: File | None
    error: Failure | None
    attempts: int
    max_attempts: int
    next_attempt_at: Moment | None
    priority: int
    queue_position: int | None
    waiting: Waiting | None
    drive: None
    parent_id: None
    created_at: Moment
    started_at: Moment | None
    finished_at: Moment | None
    expires_at: Moment | None
    deduplicated: bool = False


class Attempt(msgspec.Struct, frozen=True):
    """What one attempt did and what it cost."""

    attempt: int
    status: str
    started_at: Moment
    finished_at: Moment | None
    error_code: str | None
    error_message: str | None
    retries: int
    percent: float
    downloaded_bytes: int
    speed_bytes_per_second: float | None
    file_bytes: int | None
    output_format: str | None
    peak_memory_bytes: int | None
    cpu_seconds: float | None
    disk_bytes: int | None


class Filter(msgspec.Struct, forbid_unknown_fields=True, frozen=True, rename={"from_": "from"}):
    """Query of the list. `q` is a part of the title."""

    limit: Annotated[int, msgspec.Meta(ge=1, le=200)] = 50
    cursor: UUID | None = None
    status: list[Status] | None = None
    q: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    from_: Moment | None = None
    to: Moment | None = None


class Page(msgspec.Struct, frozen=True):
    items: list[Download]
    next_cursor: str | None


def view(row: Row, *, position: int | None = None, deduplicated: bool = False, disk_full: bool = False) -> Download:
    """A row of `downloads` with its job's figures, as users see it. `disk_full` is why nothing is leased just now."""
    values = {name: row[name] for name in Download.__struct_fields__ if name in row}
    values |= {
        "progress": Progress(
            row["stage"],
            round(row["percent"], 1),
            row["downloaded_bytes"],
            row["total_bytes"],
            row["speed_bytes_per_second"],
            row["eta_seconds"],
        ),
        "file": file_of(row) if row["status"] == "completed" else None,
        "error": Failure(**row["error"]) if row["error"] else None,
        "attempts": row["fence"],
        "max_attempts": row["max_tries"],
        "next_attempt_at": row["run_at"] if row["job_state"] == "retry_wait" else None,
        "queue_position": position,
        "waiting": waiting_of(row, disk_full=disk_full),
        "drive": None,
        "parent_id": None,
        "deduplicated": deduplicated,
    }
    return Download(**values)


def waiting_of(row: Row, *, disk_full: bool) -> Waiting | None:
    """What keeps the job from its turn. A retry that is not due says so in its error and `next_attempt_at`."""
    if row["job_state"] == "queued" and (disk_full or row["waiting"] == "disk"):
        return Waiting(*WAITS["disk"], row["run_at"] if row["waiting"] == "disk" else None)
    if row["job_state"] not in ("queued", "retry_wait"):
        return None
    put_off = row["run_at"] if row["waiting"] == "egress" and row["early"] else None
    if not row["egress_paused"] and put_off is None:
        return None
    return Waiting(*WAITS["egress"], max(filter(None, (put_off, row["egress_until"])), default=None))


def file_of(row: Row) -> File:
    name = title_name(row["title"], row["video_id"], row["file_name"].rpartition(".")[2])
    return File(name, row["file_bytes"], row["file_type"], row["file_sha256"], f"/api/v1/downloads/{row['id']}/file")


def options_of(new: NewDownload) -> dict[str, Any]:
    """What makes a difference to the file beside quality and format."""
    return {"embed_metadata": new.embed_metadata}


def dedup_key(video_id: str, quality: str, format: str, options: dict[str, Any]) -> bytes:
    """Two requests with the same key ask for the same file."""
    return hashlib.sha256(msgspec.json.encode([video_id, quality, format, sorted(options.items())])).digest()
