"""Ways to ask the YouTube stand-in: yt-dlp in its own process, a bare HTTP client, the control endpoint."""

import http.client
import json
import os
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from tests.fakes.youtube import YouTube
from tests.fakes.youtube_media import ffmpeg

RUN_SECONDS = 60


def command(youtube: YouTube, *arguments: str) -> list[str]:
    """A yt-dlp command that reaches the stand-in and nothing else; it needs `environment` as well."""
    fixed = [
        "--ignore-config",
        "--no-cache-dir",
        "--compat-options",
        "no-certifi",
        "--ffmpeg-location",
        ffmpeg(),
    ]
    served = ["--proxy", youtube.proxy_url, "--extractor-args", youtube.extractor_args]
    return [sys.executable, "-m", "yt_dlp", *fixed, *served, *arguments]


def environment(youtube: YouTube) -> dict[str, str]:
    return {**os.environ, "SSL_CERT_FILE": str(youtube.ca_file), "PYTHONIOENCODING": "utf-8"}


def run(youtube: YouTube, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs yt-dlp in `folder` to its end, a minute at most."""
    line, names = command(youtube, *arguments), environment(youtube)
    return subprocess.run(line, env=names, cwd=folder, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)


class Client:
    """One connection through the proxy to `host`. It trusts the test authority only."""

    def __init__(self, youtube: YouTube, host: str, timeout: float = 10) -> None:
        port = int(youtube.proxy_url.rsplit(":", 1)[1])
        context = ssl.create_default_context(cafile=str(youtube.ca_file))
        self.connection = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=timeout)
        self.connection.set_tunnel(host, 443)

    def open(
        self, path: str, headers: dict[str, str] | None = None, method: str = "GET", body: bytes | None = None
    ) -> http.client.HTTPResponse:
        self.connection.request(method, path, body, headers or {})
        return self.connection.getresponse()


def talk(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> tuple[int, Any]:
    """Status and JSON of the control endpoint's answer."""
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, method=method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def probe(path: Path) -> str:
    """What ffmpeg says of a file after decoding all of it; `ERROR` stands first when it could not."""
    done = subprocess.run([ffmpeg(), "-i", path, "-f", "null", "-"], capture_output=True, text=True, check=False)
    return ("ERROR " if done.returncode else "") + done.stderr
