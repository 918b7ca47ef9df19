"""Whether a file is opened by anybody, Python or not: the kernel tells."""

import ctypes
import os
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)
_IN_OPEN = 0x20


class Watch:
    """Watches one file from its making to `close`."""

    def __init__(self, path: Path) -> None:
        self._queue = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if _libc.inotify_add_watch(self._queue, os.fsencode(path), _IN_OPEN) < 0:
            raise OSError(ctypes.get_errno(), "inotify_add_watch failed")

    def was_opened(self) -> bool:
        """Since the last time it was asked."""
        try:
            return bool(os.read(self._queue, 4096))
        except BlockingIOError:
            return False

    def close(self) -> None:
        os.close(self._queue)
