"""The wrappers of ffmpeg and deno, which every process over a data folder writes at its start."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ytdl.fetcher.tools import write_wrapper


def test_processes_that_start_together_do_not_take_each_others_wrappers(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as several:
        written = set(several.map(lambda _: write_wrapper(tmp_path, "ffmpeg", "/bin/true"), range(400)))
    assert written == {str(tmp_path / "ffmpeg")} and [path.name for path in tmp_path.iterdir()] == ["ffmpeg"]
