"""The closed tables of why a download can fail or has to wait: one stable code a reason, and what follows from it.

The child process picks the code of a failure, the fetcher adds `retryable` and `delay_seconds`, and users read
`hint`. Nothing else may invent a code.
"""

from typing import Literal, NamedTuple

Waiting = Literal["egress", "disk"]
WaitCode = Literal["egress_paused", "disk_full"]


class Reason(NamedTuple):
    """What a code means for the queue and the user. `delay_seconds` is the least wait before the next attempt."""

    retryable: bool
    hint: str
    delay_seconds: float = 0.0


REASONS: dict[str, Reason] = {
    # The video itself: no attempt of ours changes the answer.
    "video_private": Reason(False, "This video is private; upload cookies of somebody whom its owner gave access."),
    "video_unavailable": Reason(False, "The video was removed or never existed; check the address."),
    "age_restricted": Reason(False, "The site wants a signed-in adult; upload cookies of one and try again."),
    "geo_blocked": Reason(False, "The video is not offered in the country of this server."),
    "members_only": Reason(False, "Only members of the channel see this video; upload cookies of one and try again."),
    "login_required": Reason(False, "The site wants a signed-in user; upload cookies of one and try again."),
    "cookies_refused": Reason(False, "Upload fresh cookies of an account that may see this video, and try again."),
    "drm_protected": Reason(False, "The video is copy-protected and cannot be downloaded."),
    "live_now": Reason(False, "This is a live broadcast; try again when it has ended."),
    "not_yet_available": Reason(True, "The video has not been released yet; it is tried again then.", 300),
    "format_unavailable": Reason(False, "Choose another quality or format for this video."),
    "unsupported_url": Reason(False, "The address is not of a single video on a supported site."),
    "file_too_large": Reason(False, "Choose a lower quality: the file is over this server's limit."),
    "address_forbidden": Reason(False, "The site points to an address that is closed to downloads."),
    # The site and the way to it: later often works.
    # How long these two wait is for the lane that met them to say, and no less than the site asks for.
    "bot_check": Reason(True, "The site doubts that this server is a person; it is tried again later."),
    "rate_limited": Reason(True, "The site asks this server to slow down; it is tried again later."),
    "upstream_forbidden": Reason(True, "The site refused the file; fresh addresses are asked for.", 10),
    "upstream_error": Reason(True, "The site failed to answer properly; it is tried again."),
    "upstream_stalled": Reason(True, "The site stopped sending; the download goes on from where it stopped."),
    "upstream_truncated": Reason(True, "The site cut the transfer short; it goes on from where it stopped."),
    "network_error": Reason(True, "The site could not be reached; it is tried again."),
    "proxy_error": Reason(True, "The server's outbound proxy failed; tell the operator if it stays so.", 30),
    "tls_error": Reason(True, "The site's certificate was not accepted; tell the operator.", 60),
    # This machine.
    "disk_full": Reason(True, "The server's disk is full; the operator has to make room.", 120),
    "out_of_memory": Reason(True, "The download needed more memory than it may have; try a lower quality."),
    "ffmpeg_missing": Reason(False, "The server has no ffmpeg; tell the operator."),
    "processing_failed": Reason(True, "The file could not be put together; it is tried again."),
    "verification_failed": Reason(True, "The finished file was faulty and is fetched anew."),
    "extractor_broken": Reason(True, "The site has changed; the operator should update yt-dlp.", 900),
    "cookies_invalid": Reason(False, "The server's cookie file is missing or broken; tell the operator."),
    "deadline_exceeded": Reason(True, "The download took longer than allowed; it goes on from where it was."),
    "child_killed": Reason(True, "The download's process was killed; it is tried again."),
    "child_crashed": Reason(True, "The download's process broke down; it is tried again."),
    "worker_lost": Reason(False, "The download stopped its worker again and again and was given up."),
    "internal": Reason(True, "Something went wrong on the server; it is tried again."),
}
"""Every code. A label value of metrics, a column value in Postgres and part of the API."""

USERS_OWN = frozenset({
    "video_private", "video_unavailable", "age_restricted", "geo_blocked", "members_only", "login_required",
    "cookies_refused", "drm_protected", "live_now", "not_yet_available", "format_unavailable", "unsupported_url",
    "file_too_large", "address_forbidden",
})  # fmt: skip
"""Codes that say what a user asked for cannot be had; all others are the fault of the service or of the way to the
site, and count against the objective for downloads."""

WAITS: dict[Waiting, tuple[WaitCode, str]] = {
    "egress": ("egress_paused", "The way to the site is closed for now; downloads go on when it is open again."),
    "disk": ("disk_full", "The server has no room left; downloads go on when there is some."),
}
"""Code and message, as users see them, of what keeps a queued download from its turn without using up a try."""
