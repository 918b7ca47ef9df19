"""The programs that jobs run: where they are found, and the wrappers through which they start.

A wrapper makes the program die with the process that started it, which the kernel does not pass on to
grandchildren.
"""

import asyncio
import importlib.util
import os
import secrets
import shlex
import shutil
from pathlib import Path

PROBE_SECONDS = 10.0


def find_ffmpeg() -> str | None:
    """ffmpeg from the path, else the one inside the `imageio-ffmpeg` package, else None."""
    return shutil.which("ffmpeg") or _find_in_package("imageio_ffmpeg", "binaries/ffmpeg-*")


def find_deno() -> str | None:
    """deno as its own package installed it, else from the path, else None."""
    if importlib.util.find_spec("deno"):
        from deno import find_deno_bin

        try:
            return str(find_deno_bin())
        except FileNotFoundError:
            pass
    return shutil.which("deno")


def _find_in_package(package: str, pattern: str) -> str | None:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).glob(pattern)):
            return str(path)
    return None


def write_wrapper(folder: Path, name: str, program: str) -> str:
    """A script `folder/name` that becomes `program`, bound to the life of its parent.

    Blocks for a small write. Other processes over the same data folder may write theirs in the same moment.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    setpriv = shutil.which("setpriv")
    leash = f"{shlex.quote(setpriv)} --pdeathsig KILL -- " if setpriv else ""
    script, fresh = folder / name, folder / f"{name}.{secrets.token_hex(4)}.new"
    fresh.write_text(f'#!/bin/sh\nexec {leash}{shlex.quote(program)} "$@"\n')
    fresh.chmod(0o700)
    fresh.replace(script)
    return str(script)


def write_slots(folder: Path, name: str, count: int) -> list[str]:
    """Files that stand for `count` places at the same work; whoever works holds the lock of one."""
    slots = [folder / f"{name}.slot{number}" for number in range(count)]
    for slot in slots:
        slot.touch(mode=0o600)
    return [str(slot) for slot in slots]


async def ask_ffmpeg_version(ffmpeg: str | None) -> str | None:
    """The first line's version of `ffmpeg -version`, or None when it does not run."""
    words = (await _ask(ffmpeg, "-version")).split()
    return words[2] if words[:2] == ["ffmpeg", "version"] else None


async def try_deno(deno: str | None, home: Path) -> bool:
    """Whether it runs a script, with the switches that yt-dlp gives it; `home` is where it keeps what it likes to."""
    switches = "--ext=js --no-code-cache --no-prompt --no-remote --no-lock --node-modules-dir=none --no-config"
    # Nothing else of our environment: there are secrets in it.
    environment = {"PATH": os.defpath, "HOME": str(home), "NO_COLOR": "1"}
    said = await _ask(deno, "run", *switches.split(), "-", given=b"console.log(6 * 7)", environment=environment)
    return said.strip() == "42"


async def _ask(
    program: str | None, *arguments: str, given: bytes = b"", environment: dict[str, str] | None = None
) -> str:
    """What it prints; nothing when it does not run, fails, or takes too long. It ends with whoever asks."""
    if not program:
        return ""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=environment,
        )
    except OSError:
        return ""
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            output, _ = await process.communicate(given)
    except TimeoutError:
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace") if process.returncode == 0 else ""
