"""A little of everything that people do with the service, so that whatever is counted has something to count.

Downloads that are made, and some that nobody can have; sign-ins right and wrong; open streams; each list that there is;
what admins do. It goes round until it is told to stop.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.cookiefiles import signed_in
from tests.drill.ground import Ground
from tests.drill.people import Admin, addresses, repeat
from ytdl.api.http import Route
from ytdl.routes import ROUTES
from ytdl.thresholds import METRICS

# With a picture and sound of their own, so that ffmpeg has work; each asked for in another size is another file.
MERGED = ("ordinary_01", "ordinary_02", "portrait_01")
SIZES = ("144p", "240p", "360p", "480p", "720p", "1080p")
IN_VAIN = ("private_001", "removed_001", "members_001", "geoblock_01")


class Load:
    def __init__(self, ground: Ground, admin: Admin) -> None:
        self._ground = ground
        self._admin = admin
        self._wrong = itertools.count()
        self._addresses = itertools.cycle(addresses())
        self._merged = itertools.cycle(itertools.product(SIZES, MERGED))
        self._in_vain = itertools.cycle(IN_VAIN)

    async def make(self) -> None:
        size, video = next(self._merged)
        await self._admin.download()
        await self._want(video, size)

    async def want_in_vain(self) -> None:
        await self._want(next(self._in_vain), "best")

    async def _want(self, video: str, quality: str) -> None:
        wanted = {"url": f"https://www.youtube.com/watch?v={video}", "quality": quality}
        await self._admin.request("POST", "/downloads", wanted)

    async def sign_in(self) -> None:
        tokens = await self._admin.sign_in()
        await self._admin.ask("POST", "/security/refresh", {"refresh_token": tokens["refresh_token"]})

    async def guess(self) -> None:
        wrong = {"username": f"nobody{next(self._wrong)}", "password": "Wrong-horse-9"}
        await self._admin.ask("POST", "/auth/login", wrong, X_Forwarded_For=next(self._addresses))

    async def read_all(self) -> None:
        """Every address that answers at once and needs to be told nothing."""
        for route in ROUTES:
            if _is_plain_list(route):
                await self._admin.request("GET", route.path)

    async def look(self) -> None:
        """Finds a download that is done, looks at its attempts, fetches its file, and lets it be."""
        _, page = await self._admin.request("GET", "/downloads?status=completed&limit=1")
        for download in page["items"]:
            await self._admin.request("GET", f"/downloads/{download['id']}/logs")
            await self._fetch(download["id"])

    async def _fetch(self, id: str) -> None:
        headers = {"Authorization": f"Bearer {self._admin.token}"}
        url = f"{self._ground.url}/api/v1/downloads/{id}/file"
        async with self._ground.client.get(url, headers=headers) as answer:
            await answer.read()

    async def administer(self) -> None:
        """Blocks an address and lifts that, makes an account and a key, and keeps cookies."""
        block = {"network": next(self._addresses), "reason": "drill", "expires_in_seconds": 60}
        status, made = await self._admin.request("POST", "/security/blocks", block)
        if status == 201:
            await self._admin.request("DELETE", f"/security/blocks/{made['id']}")
        person = f"guest{next(self._wrong)}"
        account = {"username": person, "email": f"{person}@example.org", "password": "Correct-horse-9"}
        await self._admin.ask("POST", "/auth/register", account | {"full_name": "A guest"})
        await self._admin.request("POST", "/auth/api-keys", {"name": person, "scope": "read"})
        await self._admin.request("PUT", "/cookies", {"cookies": signed_in()})

    async def set_thresholds(self) -> None:
        """One for each time that a threshold may hold; the first of them is exceeded, so that somebody is told."""
        unbounded = [name for name, measure in METRICS.items() if measure.unit != "ratio"]
        limits = zip(unbounded, (0, 60, 300, 900, 3600), strict=True)
        for number, (metric, hold) in enumerate(limits):
            far = 1e15 if (below := METRICS[metric].below) is None else below * 0.98
            wish = {"warning": 0 if number == 0 else far, "critical": far, "for_seconds": hold}
            status, found = await self._admin.request("POST", f"/monitoring/thresholds/{metric}", wish)
            assert status == 200, found

    async def follow(self) -> None:
        """A stream of each kind, open for some seconds."""
        headers = {"Authorization": f"Bearer {self._admin.token}"}
        url, client = self._ground.url, self._ground.client
        async with client.get(f"{url}/api/v1/downloads/events", headers=headers) as stream:
            async with client.ws_connect(f"{url}/api/v1/ws", headers=headers):
                await asyncio.sleep(5.0)
            stream.close()


def _is_plain_list(route: Route) -> bool:
    return route.method == "GET" and not (route.stream or route.plain or "{" in route.path)


@asynccontextmanager
async def mixed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    """Everything goes on beside the block."""
    load = Load(ground, admin)
    # What is done, and how many seconds apart.
    parts = (
        (load.make, 1.5), (load.want_in_vain, 4.0), (load.sign_in, 3.0), (load.guess, 2.0), (load.read_all, 1.0),
        (load.look, 1.0), (load.administer, 4.0), (load.follow, 0.2),
    )  # fmt: skip
    await load.set_thresholds()
    tasks = [asyncio.create_task(repeat(work, seconds)) for work, seconds in parts]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
