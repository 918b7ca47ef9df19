#!/usr/bin/env python3
"""Downloads one video through a running ytdl and checks what arrived. Needs Python 3.11 and nothing else.

API=http://127.0.0.1:8000 YTDL_USER=admin YTDL_PASSWORD=... docs/examples/download.py URL [QUALITY] [FORMAT]
"""

import hashlib
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

API = os.environ.get("API", "http://127.0.0.1:8000")


class Client:
    """Signed in for as long as the access token is good."""

    def __init__(self, username: str, password: str) -> None:
        self._token = ""
        tokens = self.ask("/api/v1/auth/login", {"username": username, "password": password})
        self._token = tokens["access_token"]

    def open(self, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(API + path, json.dumps(body).encode() if body else None)
        request.add_header("Content-Type", "application/json")
        if self._token:
            request.add_header("Authorization", f"Bearer {self._token}")
        return urllib.request.urlopen(request, timeout=60)

    def ask(self, path: str, body: Any = None) -> Any:
        with self.open(path, body) as answer:
            return json.load(answer)

    def events(self, path: str) -> Iterator[tuple[str, Any]]:
        """Name and data of each server-sent event; comments keep the connection alive and are left out."""
        name = ""
        with self.open(path) as answer:
            for line in answer:
                field, _, value = line.decode().rstrip("\r\n").partition(": ")
                if field == "event":
                    name = value
                elif field == "data":
                    yield name, json.loads(value)


def download(client: Client, url: str, quality: str = "best", format: str = "mp4") -> Path:
    """Where the file is; raises `RuntimeError` when there is none."""
    new = client.ask("/api/v1/downloads", {"url": url, "quality": quality, "format": format})
    done = new
    for name, data in client.events(f"/api/v1/downloads/{new['id']}/events"):
        if name == "progress":
            print(f"{data['stage']} {data['percent']} %", flush=True)
        elif name == "done":
            done = data
    if done["status"] != "completed":
        raise RuntimeError(f"The download is {done['status']}: {done['error']}")
    return save(client, done["file"])


def save(client: Client, file: Any) -> Path:
    path, digest = Path(file["name"]), hashlib.sha256()
    with client.open(file["url"]) as answer, path.open("wb") as out:
        while piece := answer.read(256 * 1024):
            digest.update(piece)
            out.write(piece)
    if digest.hexdigest() != file["sha256"]:
        raise RuntimeError("The file arrived damaged.")
    return path


def main() -> int:
    if not 2 <= len(sys.argv) <= 4:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        client = Client(os.environ.get("YTDL_USER", "admin"), os.environ["YTDL_PASSWORD"])
        print(f"Saved as {download(client, *sys.argv[1:])}")
    except KeyError as missing:
        print(f"{missing} is not set.", file=sys.stderr)
    except urllib.error.HTTPError as error:
        problem = json.load(error)
        print(f"{problem['title']}: {problem['detail']}", file=sys.stderr)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
    else:
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
