"""What the YouTube stand-in says: the JSON and HTML that yt-dlp's extractor reads, built from the catalogue.

Pure functions from a video to a document; nothing here knows of HTTP or of faults. Only what the extractor
(or a service that reads its result) looks at is filled in, in the places where the real service has it.
"""

import json
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Any
from urllib.parse import urlencode

from tests.fakes.youtube_media import FRAMES, SECONDS, Media
from tests.fakes.youtube_videos import (
    ALLOWED_COUNTRIES,
    CHANNEL_ID,
    LONG_SIDES,
    PLAYLISTS,
    REFUSALS,
    Format,
    Refusal,
    Video,
    find,
    id_of,
)

Json = dict[str, Any]

STREAM_HOST = "rr1---sn-standin.googlevideo.com"
MANIFEST_HOST = "manifest.googlevideo.com"
VISITOR = "CgtTdGFuZGluVmlzaXRvcg%3D%3D"
URL_LIFETIME_SECONDS = 6 * 3600
UPLOADED = "2024-02-29T08:30:00-08:00"
UPLOADED_MICROSECONDS = 1_709_224_200_000_000
LIVE_ITAGS = (93, 95)


@dataclass(frozen=True)
class Stream:
    """One format of one video together with the file behind it."""

    format: Format
    media: Media


def player(video: Video, streams: list[Stream], premiere_at: int) -> Json:
    """The answer of /youtubei/v1/player for an app client."""
    answer: Json = {
        "responseContext": {"visitorData": VISITOR},
        "playabilityStatus": _playability(video, premiere_at),
    }
    if video.state != "missing":
        answer["videoDetails"] = _details(video)
    if video.state == "live":
        answer["streamingData"] = {"hlsManifestUrl": live_master_url(video.id)}
    elif streams:
        answer["streamingData"] = _streaming(video, streams)
    return answer


def without_sizes(answer: Json) -> Json:
    """The same from a service that says nothing of lengths, neither in the rows nor in their addresses."""
    streaming = answer.get("streamingData", {})
    for row in (*streaming.get("formats", []), *streaming.get("adaptiveFormats", [])):
        row.pop("contentLength")
        row["url"] = re.sub(r"clen=\d+&", "", row["url"])
    return answer


def with_kind(answer: Json, kind: str) -> Json:
    """The same from a service that calls its files by another kind, from which the extractor takes the extension."""
    streaming = answer.get("streamingData", {})
    for row in (*streaming.get("formats", []), *streaming.get("adaptiveFormats", [])):
        row["mimeType"] = re.sub(r"/[a-z0-9]+", lambda _: f"/{kind}", row["mimeType"], count=1)
    return answer


def initial_player(video: Video, premiere_at: int) -> Json:
    """The player answer inside /watch: it alone has the microformat; its formats are never used."""
    answer = player(video, [], premiere_at)
    answer.pop("streamingData", None)
    if video.state not in ("missing", "private", "removed"):
        answer["microformat"] = {"playerMicroformatRenderer": _microformat(video, premiere_at)}
    return answer


def _playability(video: Video, premiere_at: int) -> Json:
    if refusal := REFUSALS.get(video.state):
        return _refused(refusal)
    if video.state == "upcoming":
        return _offline(video, premiere_at)
    return {"status": "OK", "playableInEmbed": True, "contextParams": "Q0FBU0FnZ0M="}


def _refused(refusal: Refusal) -> Json:
    answer: Json = {"status": refusal.status}
    if refusal.on_status:
        answer["reason"] = refusal.reason
    if refusal.screen:
        renderer: Json = {"reason": _text(refusal.screen)}
        if refusal.subreason:
            renderer["subreason"] = _text(refusal.subreason)
        answer["errorScreen"] = {"playerErrorMessageRenderer": renderer}
    return answer


def _offline(video: Video, premiere_at: int) -> Json:
    slate = {"scheduledStartTime": str(premiere_at), "mainText": {"runs": [{"text": "Premieres in 3 hours"}]}}
    return {
        "status": "LIVE_STREAM_OFFLINE",
        "reason": "Premieres in 3 hours",
        "liveStreamability": {
            "liveStreamabilityRenderer": {
                "videoId": video.id,
                "offlineSlate": {"liveStreamOfflineSlateRenderer": slate},
            }
        },
    }


def _details(video: Video) -> Json:
    details: Json = {
        "videoId": video.id,
        "title": video.title,
        "lengthSeconds": "0" if video.state in ("live", "upcoming") else str(SECONDS),
        "keywords": ["stand-in", "test"],
        "channelId": CHANNEL_ID,
        "shortDescription": f"Test picture and tone.\n{video.title}",
        "thumbnail": _thumbnails(video.id),
        "viewCount": "4242",
        "author": video.channel,
        "isPrivate": video.state == "private",
        "isLiveContent": video.state == "live",
    }
    if video.state == "live":
        details["isLive"] = True
    if video.state == "upcoming":
        details["isUpcoming"] = True
    return details


def _microformat(video: Video, premiere_at: int) -> Json:
    shown: Json = {
        "title": _text(video.title),
        "lengthSeconds": str(SECONDS),
        "ownerProfileUrl": "http://www.youtube.com/@standin",
        "externalChannelId": CHANNEL_ID,
        "isFamilySafe": video.state != "age_restricted",
        "isUnlisted": False,
        "viewCount": "4242",
        "category": "Education",
        "publishDate": UPLOADED,
        "uploadDate": UPLOADED,
        "ownerChannelName": video.channel,
        "availableCountries": ALLOWED_COUNTRIES if video.state == "geo_blocked" else ["AT", "CH", "DE", "FR"],
    }
    if video.state in ("live", "upcoming"):
        start = premiere_at if video.state == "upcoming" else premiere_at - 4 * 3600
        shown["liveBroadcastDetails"] = {
            "isLiveNow": video.state == "live",
            "startTimestamp": datetime.fromtimestamp(start, UTC).isoformat(),
        }
    return shown


def _streaming(video: Video, streams: list[Stream]) -> Json:
    rows = [(each.format.progressive, _stream(video, each)) for each in streams]
    answer: Json = {
        "expiresInSeconds": str(URL_LIFETIME_SECONDS),
        "formats": [row for progressive, row in rows if progressive],
        "adaptiveFormats": [row for progressive, row in rows if not progressive],
    }
    if video.state == "drm":
        answer["licenseInfos"] = [{"drmFamily": "WIDEVINE", "url": "https://www.youtube.com/api/drm/widevine"}]
    return answer


def _stream(video: Video, stream: Stream) -> Json:
    form, size = stream.format, stream.media.size
    row: Json = {
        "itag": form.itag,
        "url": media_url(video.id, stream),
        "mimeType": form.mime,
        "bitrate": size * 8 // SECONDS,
        "averageBitrate": size * 8 // SECONDS,
        "lastModified": str(UPLOADED_MICROSECONDS),
        "contentLength": str(size),
        "approxDurationMs": str(SECONDS * 1000),
        "quality": "tiny" if not form.short else form.quality,
        "projectionType": "RECTANGULAR",
    }
    if form.short:
        row |= _picture(form, video.portrait)
    if not form.short or form.progressive:
        row |= _sound(form)
    if video.state == "drm":
        row["drmFamilies"] = ["WIDEVINE"]
    return row


def _picture(form: Format, portrait: bool) -> Json:
    long = LONG_SIDES[form.short]
    width, height = (form.short, long) if portrait else (long, form.short)
    return {"width": width, "height": height, "fps": FRAMES, "qualityLabel": f"{form.short}p"}


def _sound(form: Format) -> Json:
    rate = "48000" if form.codec == "opus" else "44100"
    return {"audioQuality": "AUDIO_QUALITY_MEDIUM", "audioSampleRate": rate, "audioChannels": 2}


def media_url(video_id: str, stream: Stream) -> str:
    """Where a format's bytes are, with the parameters the real addresses carry."""
    query = {
        "expire": int(time.time()) + URL_LIFETIME_SECONDS,
        "id": video_id,
        "itag": stream.format.itag,
        "source": "youtube",
        "mime": stream.format.mime.split(";")[0],
        "clen": stream.media.size,
        "dur": f"{SECONDS}.000",
        "lmt": UPLOADED_MICROSECONDS,
        "ratebypass": "yes",
        "c": "ANDROID_VR",
    }
    return f"https://{STREAM_HOST}/videoplayback?{urlencode(query)}"


def live_master_url(video_id: str) -> str:
    return f"https://{MANIFEST_HOST}/api/manifest/hls_variant/id/{video_id}/playlist/index.m3u8"


def live_master(video_id: str) -> str:
    """The HLS master playlist of a live video."""
    lines = ["#EXTM3U", "#EXT-X-INDEPENDENT-SEGMENTS"]
    for itag, short in zip(LIVE_ITAGS, (360, 720), strict=True):
        lines.append(
            f'#EXT-X-STREAM-INF:BANDWIDTH={short * 2000},CODECS="mp4a.40.2,avc1.4D401F",'
            f"RESOLUTION={LONG_SIDES[short]}x{short},FRAME-RATE={FRAMES}"
        )
        lines.append(f"https://{MANIFEST_HOST}/api/manifest/hls_playlist/id/{video_id}/itag/{itag}/index.m3u8")
    return "\n".join(lines) + "\n"


def next_page(video: Video) -> Json:
    """The answer of /youtubei/v1/next, also embedded in /watch: title, owner and counts."""
    owner: Json = {
        "title": {"runs": [{"text": video.channel, "navigationEndpoint": _channel_link()}]},
        "navigationEndpoint": _channel_link(),
        "subscriberCountText": _text("1.23K subscribers"),
    }
    primary = {"title": _text(video.title), "dateText": _text("Feb 29, 2024")}
    contents = [
        {"videoPrimaryInfoRenderer": primary},
        {"videoSecondaryInfoRenderer": {"owner": {"videoOwnerRenderer": owner}}},
    ]
    return {
        "responseContext": {"visitorData": VISITOR},
        "contents": {"twoColumnWatchNextResults": {"results": {"results": {"contents": contents}}}},
    }


def playlist(playlist_id: str) -> Json:
    """A playlist's page; an error alert where there is no such playlist."""
    if playlist_id not in PLAYLISTS:
        alert = {"type": "ERROR", "text": _text("The playlist does not exist.")}
        return {"alerts": [{"alertRenderer": alert}]}
    title, names = PLAYLISTS[playlist_id]
    rows = [_playlist_row(find(id_of(name)), number) for number, name in enumerate(names, 1)]
    section = {"contents": [{"playlistVideoListRenderer": {"contents": rows, "playlistId": playlist_id}}]}
    sections = {"contents": [{"itemSectionRenderer": section}]}
    tab = {"selected": True, "content": {"sectionListRenderer": sections}}
    return {
        "responseContext": {"visitorData": VISITOR},
        "metadata": {"playlistMetadataRenderer": {"title": title, "description": "Made for tests"}},
        "header": {"playlistHeaderRenderer": _playlist_header(playlist_id, title, len(names))},
        "contents": {"twoColumnBrowseResultsRenderer": {"tabs": [{"tabRenderer": tab}]}},
    }


def _playlist_header(playlist_id: str, title: str, count: int) -> Json:
    return {
        "playlistId": playlist_id,
        "title": _text(title),
        "numVideosText": {"runs": [{"text": str(count)}, {"text": " videos"}]},
        "ownerText": {"runs": [{"text": "The Stand-in", "navigationEndpoint": _channel_link()}]},
        "privacy": "PUBLIC",
    }


def _playlist_row(video: Video, number: int) -> Json:
    hidden = {"private": "[Private video]", "removed": "[Deleted video]"}.get(video.state)
    row: Json = {
        "videoId": video.id,
        "title": {"runs": [{"text": hidden or video.title}]},
        "index": _text(str(number)),
        "thumbnail": _thumbnails(video.id),
    }
    if not hidden:
        byline = [{"text": video.channel, "navigationEndpoint": _channel_link()}]
        row |= {"lengthSeconds": str(SECONDS), "isPlayable": True, "shortBylineText": {"runs": byline}}
    return {"playlistVideoRenderer": row}


def watch_page(video: Video, premiere_at: int, *, signed_in: bool = False) -> str:
    return _page(
        video.title,
        {"INNERTUBE_CONTEXT_CLIENT_NAME": 1, "VISITOR_DATA": VISITOR, "LOGGED_IN": signed_in},
        ytInitialPlayerResponse=initial_player(video, premiere_at),
        ytInitialData=next_page(video),
    )


def playlist_page(playlist_id: str) -> str:
    return _page("Playlist", {"VISITOR_DATA": VISITOR}, ytInitialData=playlist(playlist_id))


def embed_page(video: Video) -> str:
    """What the extractor asks for after an age check. It names a script; STS keeps it from being fetched."""
    client = {"clientName": "WEB_EMBEDDED_PLAYER", "clientVersion": "2.20260708.00.00"}
    context = {"client": {**client, "visitorData": VISITOR}}
    config = {"STS": 20123, "PLAYER_JS_URL": PLAYER_SCRIPT, "INNERTUBE_CONTEXT": context}
    return _page(video.title, config)


PLAYER_SCRIPT = "/s/player/0123abcd/player_ias.vflset/en_US/base.js"


def _page(title: str, config: Json, **data: Json) -> str:
    scripts = [f"<script>ytcfg.set({_script(config)});</script>"]
    scripts += [f"<script>var {name} = {_script(value)};</script>" for name, value in data.items()]
    head = f"<head><title>{escape(title)} - YouTube</title></head>"
    return f"<!DOCTYPE html><html>{head}<body>{''.join(scripts)}</body></html>"


def _script(value: Json) -> str:
    """JSON that may stand inside a script element whatever a title holds."""
    return json.dumps(value).replace("<", "\\u003c")


def _thumbnails(video_id: str) -> Json:
    sizes = (("default", 120, 90), ("mqdefault", 320, 180), ("hqdefault", 480, 360))
    urls = [(f"https://i.ytimg.com/vi/{video_id}/{name}.jpg", wide, high) for name, wide, high in sizes]
    return {"thumbnails": [{"url": url, "width": wide, "height": high} for url, wide, high in urls]}


def _channel_link() -> Json:
    page = {"browseId": CHANNEL_ID, "canonicalBaseUrl": "/@standin"}
    return {"browseEndpoint": page, "commandMetadata": {"webCommandMetadata": {"url": "/@standin"}}}


def _text(text: str) -> Json:
    return {"simpleText": text}
