"""A bound on how many jobs do one kind of work at once: a few lock files, one held by each that does it.

A lock goes with its process however that ends, so no slot is ever lost.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator

POLL_SECONDS = 0.05


@contextlib.contextmanager
def hold(files: list[str]) -> Iterator[None]:
    """Wait for one of the slots and keep it until the end of the block. No files means no bound."""
    slots = [os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in files]
    try:
        while slots and not any(_take(slot) for slot in slots):
            time.sleep(POLL_SECONDS)
        yield
    finally:
        for slot in slots:
            os.close(slot)


def _take(slot: int) -> bool:
    try:
        fcntl.flock(slot, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
