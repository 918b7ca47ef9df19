"""The films of the YouTube stand-in: made once by ffmpeg, kept in a folder, served from memory.

Owns the recipes (test picture and sine tone), the cache on disk that parallel test runs share, and `Media`,
which is one file as the network sees it: real content, then optional padding in a container element that
players skip, so that a film of any size costs neither disk nor memory. Which video has which film is
`youtube_videos`' matter.
"""

import contextlib
import fcntl
import functools
import hashlib
import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

SECONDS = 6
FRAMES = 10
READ = 256 * 1024
FRAGMENTED = "-movflags +frag_keyframe+empty_moov+default_base_moof"
H264 = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -g 20"
VP9 = "-c:v libvpx-vp9 -deadline realtime -cpu-used 8 -row-mt 1 -b:v 0 -crf 40 -pix_fmt yuv420p -g 20"
AAC = "-c:a aac -b:a 128k -ac 2 -ar 44100"
OPUS = "-c:a libopus -b:a 128k -ac 2 -ar 48000"

# A prime length, so that bytes written at a wrong place in a file never look right by chance.
PATTERN_PERIOD = 262_147
PATTERN = random.Random(11).randbytes(PATTERN_PERIOD) * 2
TWIST = bytes(byte ^ 0x55 for byte in range(256))


@dataclass(frozen=True)
class Recipe:
    """What ffmpeg makes: the picture's size (0 x 0 is sound only), its codecs and its container.

    `take` numbers different films of the same form, as after a second upload.
    """

    codec: str
    suffix: str
    width: int = 0
    height: int = 0
    take: int = 0

    def inputs(self) -> str:
        size = f"{self.width}x{self.height}:rate={FRAMES}:duration={SECONDS}"
        picture = f"-f lavfi -i testsrc{2 if self.take else ''}=size={size} " if self.width else ""
        tone = f"-f lavfi -i sine=frequency={440 + 110 * self.take}:duration={SECONDS} "
        sound = not self.width or self.codec == "h264+aac"
        return picture + (tone if sound else "")

    def outputs(self) -> str:
        return {
            "h264": f"{H264} {FRAGMENTED} -f mp4",
            "vp9": f"{VP9} -f webm",
            "aac": f"{AAC} {FRAGMENTED} -f mp4",
            "opus": f"{OPUS} -f webm",
            "h264+aac": f"{H264} {AAC} -movflags +faststart -f mp4",
            "jpeg": "-frames:v 1 -q:v 5 -f mjpeg",
        }[self.codec]

    def arguments(self) -> list[str]:
        return f"-v error -nostdin -y {self.inputs()}{self.outputs()} -bitexact".split()

    @property
    def name(self) -> str:
        digest = hashlib.sha256(" ".join(self.arguments()).encode()).hexdigest()[:10]
        return f"{self.codec}-{self.width}x{self.height}-{digest}.{self.suffix}"


@functools.cache
def ffmpeg() -> str:
    """The program on the path, else the one in the imageio-ffmpeg package."""
    if found := shutil.which("ffmpeg"):
        return found
    import imageio_ffmpeg

    return str(imageio_ffmpeg.get_ffmpeg_exe())


def default_folder() -> Path:
    """YTDL_TEST_MEDIA, else a folder of this user among the temporary files."""
    return Path(os.environ.get("YTDL_TEST_MEDIA") or Path(tempfile.gettempdir(), f"ytdl-media-{os.getuid()}"))


class Cupboard:
    """The folder of finished films. Several processes may share it: each film is made once, under a lock."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or default_folder()
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, recipe: Recipe) -> bytes:
        """The film's bytes; makes it first when it isn't there (a second or less each)."""
        path = self.folder / recipe.name
        if not path.exists():
            with self._locked(path):
                if not path.exists():
                    self._make(recipe, path)
        return path.read_bytes()

    def get_all(self, recipes: set[Recipe]) -> dict[Recipe, bytes]:
        with ThreadPoolExecutor(2) as pool:
            return dict(zip(recipes, pool.map(self.get, recipes), strict=True))

    @contextlib.contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        with path.with_suffix(path.suffix + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _make(self, recipe: Recipe, path: Path) -> None:
        unfinished = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            subprocess.run([ffmpeg(), *recipe.arguments(), str(unfinished)], check=True, capture_output=True)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


@dataclass(frozen=True)
class Media:
    """One file as a client sees it: `head` (real content), then `pad` bytes of a fixed pattern."""

    head: bytes
    pad: int = 0
    version: str = ""
    twisted: bool = False
    etag: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256(self.head).hexdigest()[:16]
        object.__setattr__(self, "etag", f'"{digest}-{self.pad:x}{self.version}"')

    @property
    def size(self) -> int:
        return len(self.head) + self.pad

    def read(self, offset: int, length: int = READ) -> bytes:
        """At least one and at most `length` (not over 256 KiB) bytes from `offset`; none past the end."""
        if offset < len(self.head):
            piece = self.head[offset : offset + length]
        else:
            at = (offset - len(self.head)) % PATTERN_PERIOD
            piece = PATTERN[at : at + min(length, READ, self.size - offset)]
        return piece.translate(TWIST) if self.twisted else piece

    def sha256(self) -> str:
        digest, offset = hashlib.sha256(), 0
        while piece := self.read(offset):
            digest.update(piece)
            offset += len(piece)
        return digest.hexdigest()


def padded(content: bytes, suffix: str, size: int) -> Media:
    """`content` grown to `size` bytes with an element that players skip; unchanged when that long already.

    ISO files get a `free` box with a 64-bit length, WebM files an EBML `Void` element with an 8-byte length.
    """
    pad = size - len(content) - 16
    if pad <= 0:
        return Media(content)
    if suffix == "webm":
        return Media(content + b"\xec\x01" + (pad + 7).to_bytes(7, "big") + bytes(7), pad)
    return Media(content + (1).to_bytes(4, "big") + b"free" + (pad + 16).to_bytes(8, "big"), pad)


def lengthened(content: bytes, suffix: str, more: int) -> Media:
    """`content` with such an element of `more` bytes at its end."""
    return padded(content, suffix, len(content) + 16 + more)
