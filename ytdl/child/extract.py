"""Asking the site what a video is, in a process that ends with the answer.

Extraction touches most of what the fork server shares with its jobs, and a page once touched is a copy. So a job has a
fork of its own do it, gets the few facts that are left, and stays small for as long as the transfer takes.
"""

import dataclasses
import json
import os
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import msgspec

from ytdl.child import confine
from ytdl.child.client import Client
from ytdl.child.errors import Refused, classify, judge_signed_in, last_known, phrase
from ytdl.child.formats import Choice, choose
from ytdl.child.frames import Cookie, Fault, Order, Setup
from ytdl.child.guard import Guard
from ytdl.child.progress import size_of
from ytdl.child.values import number

MAX_FORWARDS = 3
POST_LIVE_WAIT_SECONDS = 1800.0
# What the later steps read of an extractor's answer.
_KEPT = ("id", "title", "uploader", "channel", "upload_date", "webpage_url", "extractor", "thumbnail", "duration")

Info = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is to be fetched: the facts of the video, and the streams as yt-dlp's own downloaders take them.

    `signed_in` is whether the site described it to the user whose cookies it was shown.
    """

    info: Info
    choice: Choice
    signed_in: bool = False


def apart(order: Order, setup: Setup, client: Client, guard: Guard, cookies: Sequence[Cookie] = ()) -> Plan:
    """Extracts in a fork of this process, as the user whose cookies these are where there are any.

    It raises Refused with what went wrong there. A fork that was killed takes this process with it by the same signal,
    so that whoever looks at the job's end sees why.
    """
    read, write = os.pipe()
    mother = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        _answer(mother, write, lambda: _plan_or_fault(order, setup, client, guard, cookies), guard)
    os.close(write)
    return _hear(pid, read)


def _answer(mother: int, write: int, ask: Callable[[], Plan | Fault], guard: Guard) -> NoReturn:
    """Runs in the fork and never returns into the job."""
    code = 70
    try:
        confine.die_with_parent(mother)
        guard.install()
        answer = ask()
        with os.fdopen(write, "w", encoding="ascii") as pipe:
            # The interpreter's own JSON, since it has a form for everything that a site may have said.
            json.dump([type(answer) is Plan, answer], pipe, default=_plain)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _plain(value: Any) -> Any:
    return msgspec.structs.asdict(value) if isinstance(value, Fault) else dataclasses.asdict(value)


def _plan_or_fault(order: Order, setup: Setup, client: Client, guard: Guard, cookies: Sequence[Cookie]) -> Plan | Fault:
    try:
        if cookies:
            client.sign_in(cookies)
        plan = _plan(order, setup, client)
        return dataclasses.replace(plan, signed_in=bool(cookies) and client.greeted is not False)
    except BaseException as error:
        traceback.print_exc()
        fault = explain(error, setup, client, guard)
        return judge_signed_in(fault, client.greeted) if cookies else fault


def explain(error: BaseException, setup: Setup, client: Client, guard: Guard | None) -> Fault:
    """One fault for whatever went wrong in this process."""
    if guard and guard.refused_address:
        return Fault("address_forbidden", "The site pointed to an address that this server may not reach.")
    if confine.is_out_of_memory(setup):
        return classify(MemoryError(), client.notes.warnings)
    fault = classify(error, client.notes.warnings)
    if fault.code == "rate_limited" and fault.retry_after_seconds is None:
        # The answer with the header was met on the way, and something else ended the extraction.
        return msgspec.structs.replace(fault, retry_after_seconds=client.asked_to_wait)
    return fault


def _hear(pid: int, read: int) -> Plan:
    with os.fdopen(read, encoding="ascii") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        confine.die_by(os.WTERMSIG(status))
    if status:
        raise Refused("child_crashed", "The download's process broke down.")
    well, said = json.loads(answer)
    if not well:
        raise Refused(said["code"], said["message"], said["retry_after_seconds"])
    return Plan(said["info"], Choice(**said["choice"]), said["signed_in"])


def _plan(order: Order, setup: Setup, client: Client) -> Plan:
    info = _extract(order.url, client)
    choice = _choose(info, order, setup)
    streams = [client.sanitize_info(stream) for stream in choice.streams]
    kept = client.sanitize_info({key: info.get(key) for key in _KEPT})
    return Plan(kept, dataclasses.replace(choice, streams=streams))


def _extract(url: str, client: Client) -> Info:
    key = None
    for _ in range(MAX_FORWARDS):
        info = client.extract_info(url, download=False, ie_key=key, process=False)
        if not info:
            raise Refused("extractor_broken", "The site gave no answer.")
        if info.get("_type") not in ("url", "url_transparent"):
            break
        url, key = info["url"], info.get("ie_key")
    if info.get("_type", "video") != "video":
        raise Refused("unsupported_url", "The address is of a list, not of one video.")
    _refuse_unreleased(info)
    processed: Info = client.process_ie_result(info, download=False)
    processed["duration"] = number(processed.get("duration")) or None
    _refuse_without_streams(processed, client)
    return processed


def _refuse_unreleased(info: Info) -> None:
    status = info.get("live_status") or ("is_live" if info.get("is_live") else None)
    if status == "is_live":
        raise Refused("live_now", "This is a live broadcast that has not ended.")
    if status == "is_upcoming":
        release = number(info.get("release_timestamp"))
        wait = max(release - time.time(), 60.0) if release else None
        raise Refused("not_yet_available", "The video has not been released yet.", wait)
    if status == "post_live":
        raise Refused("not_yet_available", "The broadcast has just ended.", POST_LIVE_WAIT_SECONDS)


def _refuse_without_streams(info: Info, client: Client) -> None:
    """The site's reason came as a warning, since that way the release time can be read as well."""
    if info.get("formats") or info.get("url"):
        return
    if info.get("_has_drm"):
        raise Refused("drm_protected", "The video is protected by DRM.")
    code, text = last_known(client.notes.warnings)
    code = code or "extractor_broken"
    raise Refused(code, phrase(code, text), client.asked_to_wait)


def _choose(info: Info, order: Order, setup: Setup) -> Choice:
    streams = info.get("formats") or [info]
    quality, wanted = order.quality, order.format
    choice = choose(streams, quality, wanted, can_process=bool(setup.ffmpeg))
    if choice is None and not setup.ffmpeg and choose(streams, quality, wanted):
        raise Refused("ffmpeg_missing", "ffmpeg is needed to make this format.")
    if choice is None:
        raise Refused("format_unavailable", f"The video is not offered as {wanted} in {quality}.")
    if sum(size_of(stream) or 0 for stream in choice.streams) > setup.max_file_bytes:
        raise Refused("file_too_large", "The video is larger than this server allows.")
    return choice
