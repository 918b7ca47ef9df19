"""The file that Alertmanager reads: put in its place whole, and the former one back where Alertmanager refuses it.

What was there is set aside as it is, with its owner and mode, until the new one is known to be taken (`settle`) or not
(`put_back`). Whoever dies between leaves it aside, and the next `write` begins by putting it back. What stands in the
file is `routing`'s business. All of this blocks for moments, and is called with the settings' row held: so nobody else
writes there. Everything raises `errors.Unavailable` where the file cannot be written.
"""

import contextlib
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import yaml

from ytdl import errors, metrics, routing

log = logging.getLogger("ytdl.alertmanager_file")
TEMPLATES = Path(__file__).parent.parent / "alertmanager" / "templates"
# How many different files of the operator's are kept, for a program may write a new one again and again.
MOST_KEPT = 10


def read_templates() -> dict[str, bytes]:
    """Each time anew: what is written has to be what the configuration is named after."""
    return {template.name: template.read_bytes() for template in TEMPLATES.glob("*.tmpl")}


def write(path: Path, text: str, templates: Mapping[str, bytes]) -> None:
    """Puts the text in the file's place, whole or not at all; nothing is done if it is that already.

    A file that this service did not make is kept beside it. `settle` or `put_back` has to follow.
    """
    with _writable():
        _recover(path)
        former = path.read_bytes() if path.exists() else None
        _write_templates(path.parent / "templates", templates)
        if former != text.encode():
            _keep(path, former or b"")
            _replace(path, text.encode(), aside=_aside(path) if former is not None else None)
            log.info("notifications.written", extra={"file": str(path)})
    metrics.notifications_rendered.set(time.time())


def put_back(path: Path) -> None:
    """Without a former file the new one stays: Alertmanager does not start without any, and says what it lacks."""
    with _writable():
        _recover(path)


def settle(path: Path) -> None:
    """The new file stays."""
    with _writable():
        _aside(path).unlink(missing_ok=True)


def tells_somebody(path: Path) -> bool:
    """Whether a file of this service's is there by which anybody is told of anything."""
    with _writable():
        found = path.read_bytes() if path.exists() else b""
    if not found.startswith(routing.HEAD.encode()):
        return False
    with contextlib.suppress(yaml.YAMLError, KeyError, TypeError):
        return any(len(receiver) > 1 for receiver in yaml.load(found, Loader=yaml.CSafeLoader)["receivers"])
    return False


@contextlib.contextmanager
def _writable() -> Iterator[None]:
    try:
        yield
    except OSError as e:
        raise errors.Unavailable(f"The file at ALERTMANAGER_CONFIG_FILE cannot be written: {e.strerror}.") from e


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.former")


def _recover(path: Path) -> None:
    """Also removes what a process left that died while it wrote."""
    with contextlib.suppress(FileNotFoundError):
        _aside(path).replace(path)
        _sync_folder(path.parent)
    for left in path.parent.glob(f".{path.name}.*"):
        left.unlink(missing_ok=True)


def _keep(path: Path, former: bytes) -> None:
    """The first keeps its plain name for ever; another one is named after what is in it."""
    first = path.with_name(path.name + ".before-ytdl")
    if not former.strip() or former.startswith(routing.HEAD.encode()) or _is(first, former):
        return
    other = path.with_name(f"{first.name}-{hashlib.sha256(former).hexdigest()[:8]}")
    if not first.exists():
        _replace(first, former)
    elif not other.exists() and len(list(path.parent.glob(f"{first.name}-*"))) < MOST_KEPT:
        _replace(other, former)


def _is(path: Path, content: bytes) -> bool:
    return path.exists() and path.read_bytes() == content


def _write_templates(folder: Path, templates: Mapping[str, bytes]) -> None:
    """For everybody to read: there is no secret in them, and the operator's own file may name them too."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in templates.items():
        if not _is(folder / name, text):
            _replace(folder / name, text, mode=0o644)


def _replace(path: Path, content: bytes, *, aside: Path | None = None, mode: int = 0o600) -> None:
    """On the disk before it has the name. What had the name has that of `aside` then, if one is given."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if aside:
        _set_aside(path, aside)
    Path(name).replace(path)
    _sync_folder(path.parent)


def _set_aside(path: Path, aside: Path) -> None:
    """By a second name, or where the system lets only its owner give one, by another: for a moment there is no file."""
    try:
        aside.hardlink_to(path)
    except OSError:
        path.replace(aside)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
