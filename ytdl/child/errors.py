"""From whatever went wrong in a job to one code and a sentence that may be shown.

The exception object decides where it says enough; yt-dlp tells many reasons by text only, so a table of
texts follows. The codes' meaning (retry or not, hint) is the service's: `ytdl.reasons`.
"""

import errno
import re
import time
from collections.abc import Sequence
from email.message import Message
from email.utils import parsedate_to_datetime

from yt_dlp.cookies import CookieLoadError
from yt_dlp.networking.exceptions import (
    HTTPError,
    IncompleteRead,
    ProxyError,
    RequestError,
    SSLError,
    TransportError,
)
from yt_dlp.utils import (
    ContentTooShortError,
    DownloadError,
    ExtractorError,
    GeoRestrictedError,
    UnsupportedError,
    UserNotLive,
)

from ytdl.child.frames import Fault

MAX_MESSAGE = 500
MAX_RETRY_AFTER_SECONDS = 24 * 3600.0


class Refused(Exception):
    """A reason that the job itself found, already with its code."""

    def __init__(self, code: str, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


# What sites say, as yt-dlp passes it on. First match wins, so the narrow stand before the wide.
_TEXTS = [
    (r"not a bot|captcha|unusual traffic", "bot_check"),
    (r"rate[- ]limited|too many requests|HTTP Error 429", "rate_limited"),
    (r"confirm your age|age[- ]restricted|inappropriate for some users", "age_restricted"),
    (
        r"members[- ]only|join this channel|available to this channel's members|members on level",
        "members_only",
    ),
    (r"private video|video is private", "video_private"),
    (r"in your country|geo[- ]?restrict|from your location|blocked it in", "geo_blocked"),
    (r"\bDRM\b|copy[- ]?protected", "drm_protected"),
    (r"premieres? in|live event will begin|will begin in|begins? in|is upcoming", "not_yet_available"),
    (r"requires payment|purchase|rental|premium", "members_only"),
    (r"sign in|log ?in|account cookies|registered users", "login_required"),
    (r"Requested format is not available", "format_unavailable"),
    (r"Netscape format|cookies? (file|database)|failed to load cookies", "cookies_invalid"),
    (r"No suitable extractor|Unsupported URL|is not a valid URL", "unsupported_url"),
    (r"No space left|Errno 28", "disk_full"),
    (r"File too large|Errno 27", "file_too_large"),
    (r"more expected|content too short|Did not get any data blocks|IncompleteRead", "upstream_truncated"),
    (r"proxy", "proxy_error"),
    (r"timed out|timeout", "upstream_stalled"),
    (r"certificate|\bSSL|\bTLS", "tls_error"),
    (r"HTTP Error 403", "upstream_forbidden"),
    (r"HTTP Error (404|410)", "video_unavailable"),
    (r"HTTP Error \d", "upstream_error"),
    (r"refused|reset|unreachable|resolve|name or service|connection", "network_error"),
    (r"Giving up after|fragment .*not found", "upstream_error"),
    (r"please report this issue|Unable to extract|No video formats found", "extractor_broken"),
    (
        r"\bremoved|\bterminated|no longer available|video (is )?unavailable|does not exist|not available",
        "video_unavailable",
    ),
]
_TABLE = [(re.compile(pattern, re.IGNORECASE), code) for pattern, code in _TEXTS]

# Where a library's words would say nothing to a user. For the other codes the site's own reason is shown.
_SENTENCES = {
    "cookies_invalid": "The server's cookie file cannot be used.",
    "cookies_refused": "The site does not take the cookies that you uploaded.",
    "disk_full": "The server's disk is full.",
    "extractor_broken": "The site answered in a way that is not understood.",
    "file_too_large": "The file grew over this server's limit.",
    "internal": "An unexpected error occurred.",
    "network_error": "The site could not be reached.",
    "out_of_memory": "The memory limit of a download was reached.",
    "proxy_error": "The outbound proxy did not let the request through.",
    "rate_limited": "The site asks for fewer requests.",
    "tls_error": "The site's certificate was not accepted.",
    "unsupported_url": "The address is not supported.",
    "upstream_error": "The site answered with an error.",
    "upstream_forbidden": "The site refused to hand out the file.",
    "upstream_stalled": "The site stopped sending.",
    "upstream_truncated": "The site cut the transfer short.",
}

# What an account may change: the site refuses whoever asks, not what is asked for.
WANTS_ACCOUNT = frozenset({"age_restricted", "login_required", "members_only", "video_private"})

OF_THE_DISK = {errno.ENOSPC: "disk_full", errno.EDQUOT: "disk_full", errno.EFBIG: "file_too_large"}

# Reasons that lie between here and the site, and not in the video.
_OF_THE_WAY = {"bot_check", "network_error", "proxy_error", "rate_limited", "tls_error"}
_OF_THE_WAY |= {"upstream_error", "upstream_forbidden", "upstream_stalled"}

_NOISE = [
    (re.compile(r"\x1b\[[0-9;]*m"), ""),
    (re.compile(r"^(ERROR|WARNING):\s*|\[[\w:.+-]+\]\s*"), ""),
    (re.compile(r"^[\w-]{11}:\s*"), ""),
    (re.compile(r"\(caused by .*|; please report this issue.*|Use --\S+.*|See {2}https?:.*", re.DOTALL), ""),
    (re.compile(r"[^.]*\b(--[a-z-]+|`-t sleep`)[^.]*\.?"), ""),
    (re.compile(r"https?://\S+"), ""),
    (re.compile(r"'?(?<!\w)/[\w.-]+(/[^\s'\":,]+)+'?"), "a file"),
    (re.compile(r"[\x00-\x1f\x7f]+|\s{2,}"), " "),
]


def clean(text: str) -> str:
    """A sentence of yt-dlp's or ffmpeg's without addresses, paths, escapes and advice for a terminal."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(replacement, text)
    return text.strip()[:MAX_MESSAGE] or "No reason was given."


def classify(error: BaseException, warnings: Sequence[str]) -> Fault:
    """One fault for any exception. `warnings` are yt-dlp's last words, where the exception has none."""
    code, wait = _judge(error, warnings)
    return Fault(code, clean(str(error)) if isinstance(error, Refused) else phrase(code, str(error)), wait)


def judge_signed_in(fault: Fault, greeted: bool | None) -> Fault:
    """What a fault means that came although cookies were shown; `greeted` is whether the site's page took them for a
    signed-in user, None where it did not say. A user it knows may have no right to the video all the same."""
    if greeted is None:
        taken = fault.code not in ("age_restricted", "login_required")
    else:
        taken = greeted or fault.code not in WANTS_ACCOUNT | {"bot_check"}
    return fault if taken else Fault("cookies_refused", _SENTENCES["cookies_refused"])


def phrase(code: str, text: str) -> str:
    """What users read: a sentence of ours where a library's words would say nothing, else the site's reason."""
    return _SENTENCES.get(code) or clean(text)


def _judge(error: BaseException, warnings: Sequence[str]) -> tuple[str, float | None]:
    if isinstance(error, Refused):
        return error.code, error.retry_after_seconds
    if isinstance(error, (CookieLoadError, MemoryError)):
        return ("out_of_memory" if isinstance(error, MemoryError) else "cookies_invalid"), None
    cause = _cause(error)
    if (found := _by_kind(cause)) is not None:
        return found
    if (found := _by_kind(error)) is not None:
        return found
    if isinstance(error, (DownloadError, ExtractorError, RequestError)):
        return _by_words(str(error), warnings), None
    if isinstance(cause, (KeyError, TypeError, IndexError, AttributeError, ValueError)) and _is_of_yt_dlp(cause):
        return "extractor_broken", None
    return "internal", None


def _by_words(text: str, warnings: Sequence[str]) -> str:
    """An extractor that got no answer ends as if it were broken; what was said before that says why it got none."""
    code = by_text(text)
    if code not in (None, "extractor_broken"):
        return str(code)
    known = [by_text(warning) for warning in reversed(warnings)]
    reasons = [each for each in known if each in _OF_THE_WAY or (code is None and each)]
    return next(filter(None, reasons), code or "upstream_error")


def by_text(text: str) -> str | None:
    """The code for what a site or tool said, or None when the words are not known."""
    text = text.replace("\u2019", "'")
    return next((code for pattern, code in _TABLE if pattern.search(text)), None)


def last_known(words: Sequence[str]) -> tuple[str | None, str]:
    """The code of the latest of several messages that is known, and that message; (None, "") when none is."""
    for text in reversed(words):
        if (code := by_text(text)) is not None:
            return code, text
    return None, ""


def _cause(error: BaseException) -> BaseException:
    """The exception that yt-dlp wrapped, by `exc_info` of DownloadError and `cause` of ExtractorError."""
    for _ in range(4):
        inner = getattr(error, "exc_info", None)
        below = inner[1] if inner and inner[1] is not None else getattr(error, "cause", None)
        if not isinstance(below, BaseException):
            break
        error = below
    return error


def _by_kind(error: BaseException) -> tuple[str, float | None] | None:
    if isinstance(error, HTTPError):
        return _by_status(error), retry_after(error.response.headers)
    kinds: list[tuple[type[BaseException], str]] = [
        (GeoRestrictedError, "geo_blocked"),
        (UserNotLive, "not_yet_available"),
        (UnsupportedError, "unsupported_url"),
        (ContentTooShortError, "upstream_truncated"),
        (IncompleteRead, "upstream_truncated"),
        (ProxyError, "proxy_error"),
        (SSLError, "tls_error"),
    ]
    for kind, code in kinds:
        if isinstance(error, kind):
            return code, None
    if isinstance(error, TransportError):
        return by_text(str(error)) or "network_error", None
    if isinstance(error, OSError) and error.errno in OF_THE_DISK:
        return OF_THE_DISK[error.errno], None
    return None


def _by_status(error: HTTPError) -> str:
    if error.status == 429:
        return "rate_limited"
    if error.status in (404, 410):
        return "video_unavailable"
    if error.status == 407:
        return "proxy_error"
    return "upstream_forbidden" if error.status in (401, 403) else "upstream_error"


def retry_after(headers: Message) -> float | None:
    """Seconds named by `Retry-After`, as a number or as a date; None when absent or senseless."""
    value = headers.get("Retry-After")
    if not value:
        return None
    try:
        seconds = float(value) if value.strip().isdigit() else parsedate_to_datetime(value).timestamp() - time.time()
    except ValueError:
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_SECONDS)


def _is_of_yt_dlp(error: BaseException) -> bool:
    trace, last = error.__traceback__, ""
    while trace:
        last = trace.tb_frame.f_globals.get("__name__", "")
        trace = trace.tb_next
    return last.startswith("yt_dlp")
