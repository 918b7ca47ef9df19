"""The arithmetic of a rate limit, and the tally that a process keeps where Redis cannot: no clock and no Redis in here.

A caller's debt is how long it would have to be silent to have the whole limit again; each request adds one interval to
it, time takes it off, and it never goes over the limit's worth (GCRA). So in any t seconds never more pass than the
limit and what t seconds give back. `lua/limit.lua` does the same with the same whole microseconds.
"""

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

WINDOW_SECONDS = 60
MICROSECONDS = 1_000_000
# Of what is left no more than this part goes to a caller who has not asked for it yet, and of the limit no more than
# the other: what nobody uses of that is lost, so it must not be all there is.
SHARE = 8
AHEAD = 2


class Policy(NamedTuple):
    """`limit` requests in a minute, all of which may come at once. Make it with `policy`."""

    name: str
    limit: int
    interval: int

    @property
    def full(self) -> int:
        """The largest debt, in microseconds."""
        return self.limit * self.interval

    def units(self, debt: int) -> int:
        """How many more requests pass now."""
        return (self.full - debt) // self.interval

    def wait(self, debt: int) -> int:
        """Microseconds until there is one more than `units`; 0 where nothing was used."""
        return max(0, debt - self.full + (self.units(debt) + 1) * self.interval) if debt else 0


def policy(name: str, limit: int) -> Policy:
    """The interval is rounded up to a whole microsecond: never more than the limit, and never over 60 million."""
    return Policy(name, limit, math.ceil(WINDOW_SECONDS * MICROSECONDS / limit))


def grant(need: int, want: int, left: Sequence[tuple[int, int]]) -> int:
    """How many of `want` units all policies give; `left` is what each has left, and its limit. What is needed now is
    given while there is any; what would be kept for later only as a small part of what is left, and only while more
    than half of the limit is."""
    return min(want, *(max(min(need, units), _ahead(units, limit)) for units, limit in left))


def _ahead(units: int, limit: int) -> int:
    return min(units // SHARE, units - limit // AHEAD)


class Tally:
    """Debts by key, of those seen last; `now` is in microseconds of any steady clock, the same in all calls."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._paid_at: OrderedDict[str, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._paid_at)

    def debt(self, key: str, now: int) -> int:
        return max(0, self._paid_at.get(key, 0) - now)

    def note(self, key: str, debt: int, now: int) -> None:
        """Drops who was noted longest ago where there are too many."""
        self._paid_at[key] = now + debt
        self._paid_at.move_to_end(key)
        if len(self._paid_at) > self._size:
            self._paid_at.popitem(last=False)

    def take(
        self, policies: Sequence[Policy], keys: Sequence[str], need: int, want: int, now: int
    ) -> tuple[int, list[int]]:
        """Units given, and the debts after that."""
        debts = [min(self.debt(key, now), each.full) for each, key in zip(policies, keys, strict=True)]
        given = grant(need, want, [(each.units(debt), each.limit) for each, debt in zip(policies, debts, strict=True)])
        if given:
            debts = [debt + given * each.interval for each, debt in zip(policies, debts, strict=True)]
            for key, debt in zip(keys, debts, strict=True):
                self.note(key, debt, now)
        return given, debts
