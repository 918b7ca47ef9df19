"""What a URL is: our own parser decides, and what goes on from here is a URL that we built from a video id.

yt-dlp accepts far more than an address of a video (`:ytsubs`, `ytsearch5:`, other hosts, `file:`); none of that text
ever reaches it. Playlist ids are recognised, so that the answer can say what to do with them.
"""

import re
from urllib.parse import SplitResult, parse_qs, urlsplit

import msgspec

from ytdl import errors

MAX_LENGTH = 2048
HOSTS = frozenset({"youtube.com", "www.youtube.com", "m.youtube.com", "music.youtube.com"})
EMBED_HOSTS = frozenset({"youtube-nocookie.com", "www.youtube-nocookie.com"})
SHORT_HOST = "youtu.be"
# The first part of a path that the id follows.
FOLDERS = frozenset({"shorts", "live", "embed", "v"})
_VIDEO_ID = re.compile(r"[A-Za-z0-9_-]{11}")
_PLAYLIST_ID = re.compile(r"[A-Za-z0-9_-]{2,64}")
_PRINTABLE_ASCII = re.compile(r"[\x21-\x7e]*")


class Video(msgspec.Struct, frozen=True):
    """One video; `playlist_id` is the list that the URL was taken from, if it named one."""

    extractor: str
    video_id: str
    canonical_url: str
    playlist_id: str | None = None


def parse(url: str, field: str = "url") -> Video:
    """Raises `errors.Invalid`, naming `field` and the reason, for anything but an address of one video."""
    try:
        return _video(url)
    except ValueError as e:
        raise errors.invalid(field, str(e)) from None


def _video(url: str) -> Video:
    parts = _split(url)
    query = parse_qs(parts.query, max_num_fields=50)
    playlist = _playlist_id(query)
    video = _video_id(parts, query)
    if video is None and playlist:
        raise ValueError("is the address of a playlist; give the address of one video")
    if video is None:
        raise ValueError("does not name a video")
    if not _VIDEO_ID.fullmatch(video):
        raise ValueError("has no valid video id; it is 11 letters, digits, - or _")
    return Video("youtube", video, f"https://www.youtube.com/watch?v={video}", playlist)


def _split(url: str) -> SplitResult:
    if not url or len(url) > MAX_LENGTH:
        raise ValueError(f"must have 1 to {MAX_LENGTH} characters")
    if not _PRINTABLE_ASCII.fullmatch(url) or "\\" in url:
        raise ValueError("has a space, a control character, a backslash or a character that is not ASCII")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        raise ValueError("must begin with https://")
    if "@" in parts.netloc:
        raise ValueError("must not carry a user name or password")
    # The whole authority is compared, so a port, a trailing dot or a look-alike is simply another host.
    host = parts.netloc.lower()
    if host not in HOSTS | EMBED_HOSTS | {SHORT_HOST}:
        raise ValueError("must be an address on youtube.com or youtu.be, without a port")
    return parts


def _video_id(parts: SplitResult, query: dict[str, list[str]]) -> str | None:
    host, path = parts.netloc.lower(), [part for part in parts.path.split("/") if part]
    if host == SHORT_HOST:
        return path[0] if len(path) == 1 else None
    if len(path) == 2 and path[0] in FOLDERS:
        return path[1]
    if path == ["watch"] and host in HOSTS and "v" in query:
        if len(query["v"]) > 1:
            raise ValueError("names more than one video")
        return query["v"][0]
    return None


def _playlist_id(query: dict[str, list[str]]) -> str | None:
    found = query.get("list", [""])[0]
    return found if _PLAYLIST_ID.fullmatch(found) else None
