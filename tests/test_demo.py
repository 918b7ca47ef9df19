"""The demo as people run it: it ends well, or says why not, and leaves nothing behind."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import demo
from tests.instance import ROOT

DEMO = [sys.executable, "-m", "tests.demo"]


def run(temporary: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The demo with a folder for temporary files of its own, so that leftovers show."""
    temporary.mkdir(exist_ok=True)
    surroundings = os.environ | {"TMPDIR": str(temporary)} | environment
    return subprocess.run(
        [*DEMO, *options],
        cwd=ROOT,
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def leashed_to(temporary: Path) -> list[str]:
    """Processes that name the folder, which the demo's servers all do."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        # Others end while they are looked at.
        with contextlib.suppress(OSError):
            line = path.read_bytes().decode(errors="replace")
            found += [line] if str(temporary) in line else []
    return found


@pytest.mark.slow
def test_the_demo_says_what_it_got_and_leaves_nothing(tmp_path: Path) -> None:
    done = run(tmp_path / "tmp", "--rate", "0", DATABASE_URL="postgresql://nowhere.invalid/ytdl")
    assert done.returncode == 0, done.stderr
    assert "An ordinary video.mp4" in done.stdout
    assert "1920 x 1080, 6.0 s long" in done.stdout
    assert "h264 and aac" in done.stdout
    assert "the same as the service said" in done.stdout
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.slow
def test_the_demo_fails_aloud_when_the_download_does(tmp_path: Path) -> None:
    done = run(tmp_path / "tmp", "--rate", "0", "--quality", "sharp")
    assert done.returncode == 1
    assert "The demo failed" in done.stderr
    assert not list((tmp_path / "tmp").iterdir())


def test_another_file_than_the_service_said_is_not_called_a_success() -> None:
    done = {"file": {"size_bytes": 3, "sha256": "aa"}, "width": 640, "height": 360}
    got = demo.Got(3, "bb", 0.1, 6.0, ["h264"], 640, 360)
    with pytest.raises(demo.Wrong, match="SHA-256"):
        demo.compare(done, got)


@pytest.mark.slow
def test_ctrl_c_ends_the_demo_and_all_it_started(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    surroundings = os.environ | {"TMPDIR": str(temporary)}
    # Shells have what they start in the background ignore it, and all that is started from there.
    command = ["env", "--default-signal=INT", *DEMO, "--rate", "20"]
    with subprocess.Popen(command, cwd=ROOT, env=surroundings, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        next(line for line in running.stdout if "downloading" in line)
        assert leashed_to(temporary)
        running.send_signal(signal.SIGINT)
        rest = running.stdout.read()
    assert running.returncode == 130
    assert "everything was stopped and removed" in rest
    assert not list(temporary.iterdir())
    deadline = time.monotonic() + 10
    while left := leashed_to(temporary):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
