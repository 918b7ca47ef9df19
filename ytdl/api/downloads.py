"""`/downloads`: asking for videos, looking at them, changing one's mind, fetching the file."""

from collections.abc import Mapping

from aiohttp import hdrs, web

from ytdl import log
from ytdl.api.files import FileAnswer
from ytdl.api.http import BASE, Answer, client_ip, path_uuid, who
from ytdl.api.keys import DOWNLOADS
from ytdl.downloads import Asker
from ytdl.record import Attempt, Download, Filter, NewDownload, Page

# What of a request's headers is kept for statistics; whatever may hold a secret is not on the list.
KEPT_HEADERS = (
    "User-Agent",
    "Accept",
    "Accept-Language",
    "Accept-Encoding",
    "Content-Type",
    "Origin",
    "Host",
    "X-Request-Id",
)
KEPT_LENGTH = 300


def asker(request: web.Request) -> Asker:
    identity = who(request)
    return Asker(identity.user_id, identity.role == "admin")


def asker_in_full(request: web.Request) -> Asker:
    """Who asks, with the circumstances that the log rows keep."""
    identity = who(request)
    sent: Mapping[str, str] = request.headers
    headers = {name: _clean(value) for name in KEPT_HEADERS if (value := sent.get(name)) is not None}
    return Asker(
        user_id=identity.user_id,
        admin=identity.role == "admin",
        session_id=identity.session_id,
        ip=client_ip(request) or None,
        user_agent=headers.get("User-Agent"),
        headers=headers,
    )


def _clean(value: str) -> str:
    """A header may hold bytes that are no text, which JSON and PostgreSQL refuse."""
    return log.redact(value)[:KEPT_LENGTH].encode(errors="replace").decode().replace("\0", "")


async def create(request: web.Request, body: NewDownload) -> Answer:
    """Ask for a video.

    Answers at once; the download runs in the background. While the same file is already being fetched for you, that
    download is answered with status 200 and `deduplicated`. With `Idempotency-Key` a repeated request within 24 hours
    gets the first answer again.
    """
    created = await request.app[DOWNLOADS].create(asker_in_full(request), body, request.headers.get("Idempotency-Key"))
    download = created.download
    headers: dict[str, str] = {hdrs.LOCATION: f"{BASE}/downloads/{download.id}"}
    if created.replayed:
        headers["Idempotency-Replayed"] = "true"
    return Answer(download, status=200 if download.deduplicated else 202, headers=headers)


async def page(request: web.Request, query: Filter) -> Page:
    """List your downloads, newest first."""
    return await request.app[DOWNLOADS].page(asker(request), query)


async def get(request: web.Request) -> Download:
    """Look at one download."""
    return await request.app[DOWNLOADS].get(asker(request), path_uuid(request, "id"))


async def cancel(request: web.Request) -> Download:
    """Stop a download, wherever it is; it is `cancelled` within two seconds."""
    return await request.app[DOWNLOADS].cancel(asker(request), path_uuid(request, "id"))


async def retry(request: web.Request) -> Download:
    """Put a failed, cancelled or expired download back into the queue."""
    return await request.app[DOWNLOADS].retry(asker(request), path_uuid(request, "id"))


async def delete(request: web.Request) -> None:
    """Remove a download with its file, stopping it first if it runs."""
    await request.app[DOWNLOADS].delete(asker(request), path_uuid(request, "id"))


async def file(request: web.Request) -> web.StreamResponse:
    """Fetch the finished file, whole or in ranges."""
    path, found = await request.app[DOWNLOADS].file(asker(request), path_uuid(request, "id"))
    answer = FileAnswer(path, found)
    return await answer.send(request)


async def attempts(request: web.Request) -> list[Attempt]:
    """What happened to a download, attempt by attempt."""
    return await request.app[DOWNLOADS].attempts(asker(request), path_uuid(request, "id"))
