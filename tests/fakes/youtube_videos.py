"""The catalogue of the YouTube stand-in: which videos and playlists exist and what is the matter with each.

Every video has a name for tests (`ordinary`) and an id of 11 characters for URLs. Three families need no
entry: `many_000000` to `many_999999` are ordinary videos for load tests, and `big` + three digits + `_` +
four digits is a video whose files are padded to that many megabytes (`big064_0001`). `plain_00000` to `plain_99999`
have one file, which needs no ffmpeg and is longer by as many bytes as the number says: no two of them are alike. How
the service words its refusals is in `REFUSALS`.
"""

import re
from dataclasses import dataclass

from tests.fakes.youtube_media import Recipe

CHANNEL_ID = "UCstandinstandinstandin0"
ACCENTED = "é" * 300


@dataclass(frozen=True)
class Format:
    """One row of the service's table of formats. `short` is the picture's smaller side; 0 is sound only."""

    itag: int
    short: int
    codec: str
    mime: str
    quality: str

    @property
    def suffix(self) -> str:
        return "webm" if "webm" in self.mime else "mp4"

    @property
    def progressive(self) -> bool:
        return self.codec == "h264+aac"

    def recipe(self, portrait: bool, take: int = 0) -> Recipe:
        if not self.short:
            return Recipe(self.codec, self.suffix, take=take)
        long = LONG_SIDES[self.short]
        width, height = (self.short, long) if portrait else (long, self.short)
        return Recipe(self.codec, self.suffix, width, height, take)


LONG_SIDES = {144: 256, 240: 426, 360: 640, 480: 854, 720: 1280, 1080: 1920}
FORMATS = (
    Format(18, 360, "h264+aac", 'video/mp4; codecs="avc1.42001E, mp4a.40.2"', "medium"),
    Format(160, 144, "h264", 'video/mp4; codecs="avc1.4d400c"', "tiny"),
    Format(133, 240, "h264", 'video/mp4; codecs="avc1.4d4015"', "small"),
    Format(134, 360, "h264", 'video/mp4; codecs="avc1.4d401e"', "medium"),
    Format(135, 480, "h264", 'video/mp4; codecs="avc1.4d401f"', "large"),
    Format(136, 720, "h264", 'video/mp4; codecs="avc1.64001f"', "hd720"),
    Format(137, 1080, "h264", 'video/mp4; codecs="avc1.640028"', "hd1080"),
    Format(243, 360, "vp9", 'video/webm; codecs="vp9"', "medium"),
    Format(247, 720, "vp9", 'video/webm; codecs="vp9"', "hd720"),
    Format(248, 1080, "vp9", 'video/webm; codecs="vp9"', "hd1080"),
    Format(140, 0, "aac", 'audio/mp4; codecs="mp4a.40.2"', "AUDIO_QUALITY_MEDIUM"),
    Format(251, 0, "opus", 'audio/webm; codecs="opus"', "AUDIO_QUALITY_MEDIUM"),
)
BY_ITAG = {each.itag: each for each in FORMATS}
PORTRAIT_ITAGS = frozenset({18, 134, 136, 137, 140, 251})
UP_TO_360P = frozenset({18, 160, 133, 134, 243, 140, 251})
PICTURE = Recipe("jpeg", "jpg", 480, 360)


@dataclass(frozen=True)
class Video:
    """`state` is "" for a video that plays, else a key of `REFUSALS` or one of live, upcoming and drm."""

    id: str
    title: str
    state: str = ""
    channel: str = "The Stand-in"
    portrait: bool = False
    itags: frozenset[int] = frozenset(BY_ITAG)
    megabytes: int = 0
    more_bytes: int = 0

    def formats(self) -> list[Format]:
        return [each for each in FORMATS if each.itag in self.itags]


@dataclass(frozen=True)
class Refusal:
    """A video that doesn't play: the service's own status and words. Each goes where the service puts it."""

    status: str
    reason: str
    screen: str = ""
    subreason: str = ""
    on_status: bool = True


REFUSALS = {
    "private": Refusal(
        "LOGIN_REQUIRED",
        "",
        "Private video",
        "Sign in if you've been granted access to this video",
        on_status=False,
    ),
    "removed": Refusal(
        "ERROR", "Video unavailable", "Video unavailable", "This video has been removed by the uploader"
    ),
    "missing": Refusal("ERROR", "Video unavailable", "Video unavailable", "This video is unavailable"),
    "age_restricted": Refusal(
        "LOGIN_REQUIRED",
        "Sign in to confirm your age",
        "Sign in to confirm your age",
        "This video may be inappropriate for some users.",
    ),
    "login_required": Refusal("LOGIN_REQUIRED", "Please sign in", "Please sign in"),
    "geo_blocked": Refusal(
        "UNPLAYABLE",
        "The uploader has not made this video available in your country",
        "Video unavailable",
        "The uploader has not made this video available in your country",
    ),
    "members_only": Refusal(
        "UNPLAYABLE",
        "Join this channel to get access to members-only content like this video, and other exclusive perks.",
    ),
    "bot_check": Refusal(
        "LOGIN_REQUIRED",
        "Sign in to confirm you’re not a bot",  # noqa: RUF001 -- the service writes U+2019
        "Sign in to confirm you’re not a bot",  # noqa: RUF001
        "This helps protect our community. Learn more",
    ),
    "rate_limited": Refusal(
        "UNPLAYABLE",
        "This content isn't available, try again later.",
        "This content isn't available, try again later.",
    ),
}
ALLOWED_COUNTRIES = ["DE", "FR"]

CATALOGUE: dict[str, Video] = {
    "ordinary": Video("ordinary_01", "An ordinary video"),
    "second": Video("ordinary_02", "Another ordinary video"),
    "portrait": Video("portrait_01", "Taken upright", portrait=True, itags=PORTRAIT_ITAGS),
    "small": Video("upto360p_01", "Small picture", itags=UP_TO_360P),
    "big": Video("big032_0001", "A big file", megabytes=32),
    "emoji": Video("emojititle1", "Party 🎉👩‍👩‍👧 at 5 o’clock 🇩🇪"),  # noqa: RUF001
    "right_to_left": Video("rtl_title_1", "שלום עולם \u202egnp.exe مرحبا"),
    "quotes": Video("quotetitle1", 'He said "it\'s" `fine`; <b>&amp;</b> $HOME \\ end'),
    "newlines": Video("newlines__1", "first line\r\nSet-Cookie: a=b\tthird\x00 \x1b[31mred"),
    "slashes": Video("slashtitle1", "../../etc/passwd\\..\\boot.ini", channel="../up"),
    "dots": Video("dotdottitle", "..", channel=".."),
    "long": Video("longtitle_1", ACCENTED),
    "template": Video("templates_1", "%(id)s %(title)s %s %d {id} ${PATH}"),
    "dash": Video("-leadingdas", "--exec rm -rf"),
    "private": Video("private_001", "Private", "private"),
    "removed": Video("removed_001", "Removed", "removed"),
    "age_restricted": Video("agelimit_01", "For grown-ups", "age_restricted"),
    "geo_blocked": Video("geoblock_01", "Elsewhere only", "geo_blocked"),
    "members_only": Video("members_001", "Members only", "members_only"),
    "bot_check": Video("botcheck_01", "Behind a bot check", "bot_check"),
    "rate_limited": Video("ratelimit01", "Too many requests", "rate_limited"),
    "live": Video("live_now_01", "Live now", "live"),
    "upcoming": Video("premiere_01", "Premiere", "upcoming"),
    "drm": Video("drmmovie_01", "Rented film", "drm"),
}

PLAYLISTS: dict[str, tuple[str, list[str]]] = {
    "PLstandin_five_01": ("Five videos", ["ordinary", "second", "portrait", "small", "emoji"]),
    "PLstandin_mixed_1": ("Some cannot be had", ["ordinary", "private", "removed", "second"]),
}
PLAYLIST_NAMES = {"playlist": "PLstandin_five_01", "mixed_playlist": "PLstandin_mixed_1"}
BY_ID = {video.id: video for video in CATALOGUE.values()}


def find(video_id: str) -> Video:
    """The video of that id; one in state `missing` when the catalogue and the families have none."""
    if found := BY_ID.get(video_id):
        return found
    if re.fullmatch(r"many_\d{6}", video_id):
        return Video(video_id, f"Video number {video_id[5:]}")
    if match := re.fullmatch(r"big(\d{3})_\d{4}", video_id):
        return Video(video_id, f"Big video {video_id[3:]}", megabytes=int(match[1]))
    if re.fullmatch(r"plain_\d{5}", video_id):
        return Video(video_id, f"Plain video {video_id[6:]}", itags=frozenset({18}), more_bytes=1 + int(video_id[6:]))
    return Video(video_id, "", "missing")


def id_of(name: str) -> str:
    """A video's id from its name in the catalogue; an id goes through unchanged."""
    return CATALOGUE[name].id if name in CATALOGUE else name


def url_of(name: str) -> str:
    """The address of a video or playlist, by name or id."""
    if name.startswith("PL") or name in PLAYLIST_NAMES:
        return f"https://www.youtube.com/playlist?list={PLAYLIST_NAMES.get(name, name)}"
    return f"https://www.youtube.com/watch?v={id_of(name)}"


def recipes() -> set[Recipe]:
    """All films the catalogue needs."""
    upright = {each.recipe(portrait=True) for each in FORMATS if each.itag in PORTRAIT_ITAGS}
    return {each.recipe(portrait=False) for each in FORMATS} | upright | {PICTURE}
