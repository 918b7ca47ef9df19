"""Background work: a named round that is done again and again and survives its own failures."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from ytdl import errors, metrics

log = logging.getLogger("ytdl.loops")
JITTER = 0.1
# A round that fails at once must not be done again at once, however short its distance is.
FAILED_SECONDS = 1.0
CANCEL_SECONDS = 1.0
T = TypeVar("T")


async def repeat(name: str, seconds: float, work: Callable[[], Awaitable[object]], *, first: float = 0.0) -> None:
    """Does `work` for ever, some `seconds` apart, the first time after `first` seconds.

    The distance varies by a tenth, so that several processes do not fall into step. A failed round is counted and
    logged, and the next one comes all the same, a second later at the earliest: with PostgreSQL or Redis away it is
    only noted.

    From when it begins until it is cancelled its gauges say that it runs. One that ends otherwise, as by a cancellation
    of something else that it waited for, goes on looking like one that hangs.
    """
    metrics.worker_loop_interval.labels(name).set(seconds)
    metrics.worker_loop_last_success.labels(name).set(time.time())
    try:
        await asyncio.sleep(first)
        while True:
            pause = seconds if await once(name, work) else max(seconds, FAILED_SECONDS)
            await asyncio.sleep(pause * random.uniform(1 - JITTER, 1 + JITTER))
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) and task.cancelling():
            metrics.worker_loop_last_success.labels(name).set(0)
        raise


async def once(name: str, work: Callable[[], Awaitable[object]]) -> bool:
    """One round, counted under that name: whether it went well."""
    try:
        await work()
    except errors.Unavailable as e:
        metrics.worker_loop_errors.labels(name).inc()
        log.warning("loop.unavailable", extra={"loop": name, "error": e.message})
        return False
    except Exception:
        metrics.worker_loop_errors.labels(name).inc()
        log.exception("loop.failed", extra={"loop": name})
        return False
    metrics.worker_loop_last_success.labels(name).set(time.time())
    return True


async def settle(work: Callable[[], Awaitable[T]], give_up: Callable[[], bool]) -> T:
    """Does `work` until PostgreSQL and Redis let it, with growing distance up to 5 s.

    Raises the last `errors.Unavailable` once `give_up` says so.
    """
    pause = 0.2
    while True:
        try:
            return await work()
        except errors.Unavailable:
            if give_up():
                raise
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(5.0, pause * 2)


async def stop(tasks: list[asyncio.Task[Any]]) -> None:
    """Ends them all and empties the list.

    A cancellation that arrives while a library's wait is just ending may be swallowed there; so it is repeated.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=CANCEL_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()
