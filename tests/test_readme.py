"""What the README says is true: its commands, its links, its first download, and the examples it names."""

import asyncio
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes.youtube import YouTube
from tests.instance import ROOT, YTDL, Instance, serving
from tests.shape.test_layers import LAYERS
from ytdl.auth import WRONG
from ytdl.config import FIELDS
from ytdl.routes import ROUTES

README = (ROOT / "README.md").read_text()
SERVED = "http://127.0.0.1:8000"
EXAMPLES = ROOT / "docs" / "examples"
needs_curl = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def links() -> list[str]:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    return [f"{page.relative_to(ROOT)}|{to}" for page in pages for to in re.findall(r"\]\(([^)]+)\)", page.read_text())]


def test_it_is_short() -> None:
    assert len(README.splitlines()) <= 150


@pytest.mark.parametrize("link", links())
def test_every_link_leads_somewhere(link: str) -> None:
    page, _, target = link.partition("|")
    if target.startswith(SERVED):
        assert target.removeprefix(SERVED) in {row.full_path for row in ROUTES if row.plain}
    else:
        path, _, heading = target.partition("#")
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists()
        assert not heading or heading in re.sub(r"[^\w\s#-]", "", linked.read_text().lower()).replace(" ", "-")


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z-]+)", README, re.MULTILINE))))
def test_every_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"\bytdl ([a-z-]+(?: --[a-z]+)?)`", README))))
def test_every_command_exists(command: str) -> None:
    done = subprocess.run([YTDL, *command.split(), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(option in done.stdout for option in command.split()[1:])


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`([A-Z]+_[A-Z_]+)`", README))))
def test_every_setting_exists(name: str) -> None:
    assert name in FIELDS


def test_the_architecture_page_has_every_layer_in_order() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    lines = page.partition("## Layers")[2].split("```")[1].strip().splitlines()
    rows = [re.findall(r"\w+", re.split(" {3,}", line)[0].replace(" →", "")) for line in lines]
    written = [name for row in rows for name in row]
    assert written == [name for layer in LAYERS for name in layer]


@dataclass
class Fresh:
    """A service that was just started for the first time, with the password it printed and an empty folder."""

    instance: Instance
    password: str
    folder: Path

    async def run(self, *command: str, **environment: str) -> str:
        """The command's output; raises `RuntimeError` with it when the command fails."""
        process = await asyncio.create_subprocess_exec(
            *command, cwd=self.folder, env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(said.decode())
        return said.decode()

    async def example(self, name: str, *arguments: str) -> str:
        interpreter = "bash" if name.endswith(".sh") else sys.executable
        access = {"API": self.instance.url, "YTDL_PASSWORD": self.password}
        return await self.run(interpreter, str(EXAMPLES / name), *arguments, **access)

    def saved(self) -> bytes:
        return (self.folder / "An ordinary video.mp4").read_bytes()


@pytest.fixture
async def fresh(tmp_path: Path, youtube: YouTube) -> AsyncIterator[Fresh]:
    settings = {
        "ADMIN_PASSWORD": "",
        "OUTBOUND_PROXY": youtube.proxy_url,
        "OUTBOUND_CA_FILE": str(youtube.ca_file),
        "YTDLP_EXTRACTOR_ARGS": youtube.extractor_args,
    }
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    async with AsyncExitStack() as stack:
        instance = await stack.enter_async_context(serving(tmp_path, **settings))
        printed = re.search(r"its password: +(\S+)", instance.log.read_text())
        assert printed
        yield Fresh(instance, printed[1], folder)


async def first_download(fresh: Fresh, url: str, password: str, more: bool = False) -> str:
    """What the README's commands say, with this address and password in the place of theirs; with those for scripts
    after them where `more` is wanted."""
    first, second = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    script = (first + second * more).replace(SERVED, fresh.instance.url).replace("the printed password", password)
    script = re.sub(r"https://www.youtube.com/watch\?v=[\w-]{11}", url, script)
    return await fresh.run("bash", "-euo", "pipefail", "-c", script)


@needs_curl
@pytest.mark.slow
async def test_the_first_download_works_as_it_is_written(fresh: Fresh, youtube: YouTube) -> None:
    said = await first_download(fresh, youtube.url("ordinary"), fresh.password)
    assert "event: done" in said
    assert hashlib.sha256(fresh.saved()).hexdigest() in said


@needs_curl
@pytest.mark.slow
async def test_a_key_for_scripts_works_as_it_is_written(fresh: Fresh, youtube: YouTube) -> None:
    said = await first_download(fresh, youtube.url("ordinary"), fresh.password, more=True)
    listed = json.loads(said.splitlines()[-1])
    assert [download["status"] for download in listed["items"]] == ["completed"]


@needs_curl
@pytest.mark.slow
async def test_the_first_download_says_why_there_is_no_file(fresh: Fresh, youtube: YouTube) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)event: done.*\n{'code': 'video_private', .*'hint': 'This video is "):
        await first_download(fresh, youtube.url("private"), fresh.password)
    with pytest.raises(RuntimeError, match=f"^{WRONG}\n$"):
        await first_download(fresh, youtube.url("ordinary"), "wrong")
    assert not list(fresh.folder.iterdir())


@needs_curl
@pytest.mark.slow
async def test_the_examples_do_what_they_say(fresh: Fresh, youtube: YouTube) -> None:
    for name in ("download.sh", "download.py"):
        said = await fresh.example(name, youtube.url("ordinary"), "360p")
        assert "Saved as An ordinary video.mp4" in said
        assert fresh.saved()[4:8] == b"ftyp"
        (fresh.folder / "An ordinary video.mp4").unlink()


@needs_curl
@pytest.mark.slow
@pytest.mark.parametrize("name", ["download.sh", "download.py"])
async def test_an_example_fails_in_one_sentence(fresh: Fresh, youtube: YouTube, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"The download is failed: .*video_private"):
        await fresh.example(name, youtube.url("private"))
    with pytest.raises(RuntimeError, match=r"^(Unprocessable \w+: )?quality: [^\n]+\n$"):
        await fresh.example(name, youtube.url("ordinary"), "huge")
    fresh.password = "wrong"
    with pytest.raises(RuntimeError, match=f"^(Unauthorized: )?{WRONG}\n$"):
        await fresh.example(name, youtube.url("ordinary"))
    assert not list(fresh.folder.iterdir())
