"""Which of a video's streams to fetch for a quality and a format, and into which container they go.

Pure functions over yt-dlp's format dictionaries (worst first, as yt-dlp sorts them). A cap is hard in every
branch: a stream whose smaller side is unknown or above it is never chosen. Within the cap, size decides
before codec.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from ytdl.child.values import whole

Stream = dict[str, Any]

AUDIO_FORMATS = ("mp3", "m4a", "opus", "flac", "wav")
CONTENT_TYPES = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "mkv": "video/x-matroska",
    "mp3": "audio/mpeg",
    "m4a": "audio/mp4",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
}
"""Extension of a finished file to its media type; also the list of extensions that may ever be delivered."""

PROTOCOLS = ("https", "http", "m3u8_native", "m3u8", "http_dash_segments")

# Families of codecs by the prefix that sites write, the most liked first.
_FITTING_VIDEO = {
    "mp4": ("avc", "h264", "hev", "hvc", "h265", "av01", "av1", "vp09", "vp9"),
    "webm": ("vp09", "vp9", "av01", "av1", "vp8"),
}
_FITTING_AUDIO = {
    "mp4": ("mp4a", "aac", "opus", "ac-3", "ec-3", "mp3"),
    "webm": ("opus", "vorbis"),
    "m4a": ("mp4a", "aac"),
    "opus": ("opus",),
    "mp3": ("mp3",),
    "flac": ("flac",),
    "wav": ("pcm", "flac"),
}


@dataclass(frozen=True)
class Choice:
    """What to fetch and what to make of it: one stream with everything, or a picture and a sound."""

    streams: list[Stream]
    ext: str
    audio_only: bool = False
    cap: int | None = None
    copy: bool = field(default=False)
    """True when the only stream is already the file that was asked for."""

    @property
    def has_audio(self) -> bool:
        """Whether the finished file must have a sound track."""
        return any(_has_audio(stream) for stream in self.streams)


def cap_of(quality: str) -> int | None:
    """The tier a quality stands for as pixels of the smaller side; None for best and worst."""
    return int(quality[:-1]) if quality.endswith("p") else None


def smaller_side(stream: Stream) -> int | None:
    """The tier of a stream: portrait 1080x1920 is 1080p just as 1920x1080 is."""
    width, height = whole(stream.get("width")), whole(stream.get("height"))
    return min(width or height, height) if height else None


def choose(streams: Iterable[Stream], quality: str, wanted: str, *, can_process: bool = True) -> Choice | None:
    """The streams to fetch, or None when no combination keeps to the quality and the format.

    Without ffmpeg (`can_process` False) only a single stream that needs nothing done to it is taken.
    """
    usable = [stream for stream in streams if _is_usable(stream)]
    if wanted in AUDIO_FORMATS:
        return _choose_audio(usable, quality, wanted, can_process)
    return _choose_video(usable, quality, wanted, can_process)


def _is_usable(stream: Stream) -> bool:
    return (
        bool(stream.get("url"))
        and stream.get("protocol", "https") in PROTOCOLS
        and (stream.get("preference") or 0) > -5  # yt-dlp's mark of a stream that is likely damaged
        and (_has_video(stream) or _has_audio(stream))
    )


def _has_video(stream: Stream) -> bool:
    return stream.get("vcodec") != "none"


def _has_audio(stream: Stream) -> bool:
    return stream.get("acodec") != "none"


def _rank(codec: str | None, liked: tuple[str, ...] | None) -> int:
    """Higher is better; 0 when the codec is not in the list, 1 for every codec when there is no list."""
    if liked is None:
        return 1
    for place, prefix in enumerate(liked):
        if (codec or "").lower().startswith(prefix):
            return len(liked) - place
    return 0


def _choose_video(usable: list[Stream], quality: str, wanted: str, can_process: bool) -> Choice | None:
    cap = cap_of(quality)
    pictures = [
        (place, stream)
        for place, stream in enumerate(usable)
        if _has_video(stream) and _is_within(stream, cap) and _fits(stream, wanted)
    ]
    sound = _best_sound(usable, wanted)
    if not can_process:
        pictures = [
            pair for pair in pictures if _has_audio(pair[1]) and _container(pair[1], wanted) == pair[1].get("ext")
        ]
    elif sound is None and any(_has_audio(stream) for _, stream in pictures):
        # The sound that fits comes only inside a stream with a picture: a silent one would lose it.
        pictures = [pair for pair in pictures if _has_audio(pair[1])]
    if not pictures:
        return _choose_any_sound(usable, quality, wanted, can_process)
    picture = _best_picture(pictures, quality, wanted)
    streams = [picture] if _has_audio(picture) or sound is None else [picture, sound]
    ext = _container_of_all(streams, wanted)
    return Choice(streams, ext, cap=cap, copy=len(streams) == 1 and _is_ready(picture, ext))


def _is_within(stream: Stream, cap: int | None) -> bool:
    side = smaller_side(stream)
    return cap is None or (side is not None and side <= cap)


def _fits(stream: Stream, wanted: str) -> bool:
    if wanted == "webm" and stream.get("ext") != "webm":
        return False
    codec = stream.get("vcodec")
    if wanted not in _FITTING_VIDEO or (wanted == stream.get("ext") and not codec):
        return True
    sound_fits = (
        not _has_audio(stream) or not stream.get("acodec") or _rank(stream["acodec"], _FITTING_AUDIO[wanted]) > 0
    )
    return _rank(codec, _FITTING_VIDEO[wanted]) > 0 and sound_fits


def _best_picture(pictures: list[tuple[int, Stream]], quality: str, wanted: str) -> Stream:
    direction = -1 if quality == "worst" else 1

    def key(pair: tuple[int, Stream]) -> tuple[Any, ...]:
        place, stream = pair
        plain = wanted == "mp4" and (stream.get("dynamic_range") or "SDR") == "SDR"
        return (
            direction * (smaller_side(stream) or 0),
            plain,
            _rank(stream.get("vcodec"), _FITTING_VIDEO.get(wanted)),
            not _has_audio(stream),  # separate streams have the better sound
            direction * place,
        )

    return max(pictures, key=key)[1]


def _best_sound(usable: list[Stream], wanted: str) -> Stream | None:
    liked = _FITTING_AUDIO.get(wanted)
    sounds = [
        (place, stream)
        for place, stream in enumerate(usable)
        if not _has_video(stream)
        and _rank(stream.get("acodec"), liked) > 0
        and (wanted != "webm" or stream.get("ext") == "webm")
    ]
    return max(sounds, key=_sound_key(liked))[1] if sounds else None


def _sound_key(liked: tuple[str, ...] | None) -> Callable[[tuple[int, Stream]], tuple[Any, ...]]:
    def key(pair: tuple[int, Stream]) -> tuple[Any, ...]:
        place, stream = pair
        return (stream.get("language_preference") or -1, _rank(stream.get("acodec"), liked), place)

    return key


def _choose_audio(usable: list[Stream], quality: str, wanted: str, can_process: bool) -> Choice | None:
    sounds = [(place, stream) for place, stream in enumerate(usable) if not _has_video(stream)]
    if not sounds:
        return _choose_sound_of_picture(usable, wanted) if can_process else None
    liked = _FITTING_AUDIO[wanted]
    if quality == "worst":
        stream = min(sounds, key=lambda pair: (pair[1].get("abr") or pair[1].get("tbr") or 0, pair[0]))[1]
    else:
        stream = max(sounds, key=_sound_key(liked))[1]
    ready = _is_ready(stream, wanted)
    if not can_process and not ready:
        return None
    return Choice([stream], wanted, audio_only=True, copy=ready)


def _choose_sound_of_picture(usable: list[Stream], wanted: str) -> Choice | None:
    """No stream of sound alone: the smallest that has any, since its picture is thrown away."""
    both = [stream for stream in usable if _has_audio(stream)]
    if not both:
        return None
    return Choice([min(both, key=lambda stream: smaller_side(stream) or 0)], wanted, audio_only=True)


def _choose_any_sound(usable: list[Stream], quality: str, wanted: str, can_process: bool) -> Choice | None:
    """`any` takes a sound where there is no picture at all; a picture above the cap is no reason for that."""
    if wanted != "any" or any(_has_video(stream) for stream in usable):
        return None
    sound = _best_sound(usable, wanted)
    codec = (sound or {}).get("acodec") or ""
    ext = next((ext for ext in AUDIO_FORMATS if _rank(codec, _FITTING_AUDIO[ext]) > 0), "mp3")
    return _choose_audio(usable, quality, ext, can_process)


def _container(stream: Stream, wanted: str) -> str:
    if wanted != "any":
        return wanted
    ext = stream.get("ext")
    return {"m4a": "mp4", "mp4": "mp4", "webm": "webm"}.get(str(ext), "mkv")


def _container_of_all(streams: list[Stream], wanted: str) -> str:
    containers = {_container(stream, wanted) for stream in streams}
    return containers.pop() if len(containers) == 1 else "mkv"


def _is_ready(stream: Stream, ext: str) -> bool:
    """Delivered as it came: the right container, not cut into segments, and not a half of a DASH pair."""
    return (
        stream.get("ext") == ext
        and stream.get("protocol", "https") in ("https", "http")
        and not str(stream.get("container") or "").endswith("_dash")
    )
