"""Names for people to save a file under; on the server's own disk a title never names anything."""

import unicodedata


def title_name(title: str | None, video_id: str, ext: str) -> str:
    """A name for people to save the file under: the title without what a file system, a shell or the eye could be
    tricked by, at most 150 bytes long; the video's id where nothing is left."""
    kept = "".join(" " if unicodedata.category(c)[0] in "CZ" else "_" if c in '/\\:*?"<>|' else c for c in title or "")
    stem = " ".join(kept.split()).lstrip(".-~ ").encode()[:150].decode(errors="ignore").rstrip(". ")
    return f"{stem or video_id}.{ext}"
