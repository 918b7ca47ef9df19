"""How often somebody may ask: the policies, who is counted by which of them, and what a refusal says.

Redis counts for all processes, by one script for all policies of a request (GCRA): either each gives, or none is used.
It lends in small blocks (`leases`), so most requests of somebody who asks often ask nobody else.

The bound: what is leased, by all processes together, is never more than limit + rate * t in any t seconds, and each
request was leased at most half a second before it passes; so in t seconds at most limit + rate * (t + 0.5) pass, and
of any number at once never more than the limit. Fewer pass where blocks end unused: each loses at most what its caller
used in the half second before, and nothing is lent ahead of need once half of a limit is used, so of those who come at
once at least half of the limit passes, and all of it where it is asked for in one process, from one address and for
one kind of thing. While Redis is away each process counts by itself, from what Redis last told it of a caller: the
bound then holds for each process.
"""

import functools
import ipaddress
import time
from typing import TYPE_CHECKING, Literal

import msgspec

from ytdl import errors, gcra, metrics
from ytdl.config import Config
from ytdl.db import Statements
from ytdl.denials import Denials
from ytdl.gcra import MICROSECONDS, Policy
from ytdl.kv import KV
from ytdl.leases import REMEMBERED, Caller, Lender

if TYPE_CHECKING:
    from ytdl.auth import Identity

# What is counted beside the address and who asks.
Kind = Literal["general", "login", "create", "url"]
TOO_MANY = "Too many requests; try again later."
UNKNOWN = "There is no policy of that name, or none that counts you."


def policies_of(config: Config) -> dict[str, Policy]:
    """By name. What is not set follows from the general limit, so that raising that one raises all."""
    general = config.rate_limit_per_minute
    limits = {
        "api": general,
        "keys": 2 * general,
        "create": config.rate_limit_create_per_minute or max(1, general // 5),
        "login": config.rate_limit_login_per_minute or max(1, general // 5),
        "url": general,
        "address": config.rate_limit_address_per_minute or 5 * general,
    }
    # What pages elsewhere make browsers ask leaves their visitors at least half of everything.
    limits["elsewhere"] = max(1, min(general // 20, limits["login"] // 2, limits["address"] // 2))
    return {name: gcra.policy(name, limit) for name, limit in limits.items()}


@functools.lru_cache(maxsize=4096)
def network(ip: str) -> str:
    """What an address is counted as: one person has all addresses of an IPv6 network of 64 bits."""
    return str(ipaddress.IPv6Network((ip, 64), strict=False)) if ":" in ip else ip


class State(msgspec.Struct, frozen=True):
    """How somebody stands with a policy; after `reset_seconds` of silence all of `limit` is there again."""

    policy: str
    limit: int
    remaining: int
    reset_seconds: float


class Limiter:
    """`await take(caller(...))` for each request. Without `kv` this process counts alone, and without `db` no event is
    recorded. Close it after use."""

    def __init__(self, policies: dict[str, Policy], kv: KV | None = None, db: Statements | None = None) -> None:
        self._policies = policies
        self._kv = kv
        self._lender = Lender(kv)
        self._denials = Denials(db, "excess_rate_limit_exceeded")
        self._callers: dict[object, Caller] = {}

    async def close(self) -> None:
        await self._lender.close()
        await self._denials.close()

    def caller(
        self, kind: Kind, ip: str, who: "Identity | None" = None, url: str = "", *, elsewhere: bool = False
    ) -> Caller:
        """`ip` is empty for a socket without addresses, whose users count as one; `url` names a temporary URL, and
        `elsewhere` is for what a page of another site makes a browser ask."""
        place = network(ip)
        known: tuple[object, ...]
        if who is None:
            known = (kind, place, url, elsewhere)
        else:
            key = who.key_id
            # Whole numbers, because a UUID's hash and comparison are slow.
            known = (kind, place, who.user_id.int, key and key.int, who.requests_per_minute, url, elsewhere)
        return self._callers.get(known) or self._meet(known, self._counted(kind, place, who, url, elsewhere=elsewhere))

    def refused(self, kind: Kind, ip: str, *, elsewhere: bool = False) -> Caller | None:
        """Whoever is unknown there, where this process refused that one and nothing can have come back since. All that
        counts for the unknown counts for whoever is known there as well, but for `elsewhere`."""
        caller = self._callers.get((kind, network(ip), "", elsewhere))
        return caller if caller is not None and time.monotonic() < caller.closed_until else None

    async def take(self, caller: Caller) -> None:
        """One request. Raises `errors.RateLimited`, and has then used nothing of any policy."""
        if not caller.spend(time.monotonic()) and not await self._lender.take(caller):
            raise self.refusal(caller)

    async def state(self, name: str, ip: str, who: "Identity", asking: Caller) -> State:
        """How `who` stands, without using anything. Raises `errors.NotFound`.

        Of what is lent but not used yet, only the block of the caller who asks counts as left.
        """
        place = network(ip)
        counted = self._counted("login", place, who) + self._counted("create", place, who)
        policy, key = next(((p, key) for p, key in counted if p.name == name), (None, ""))
        if policy is None:
            raise errors.NotFound(UNKNOWN)
        debt = await self._lender.debt(policy, key)
        left = policy.units(debt) + (asking.left if key in asking.keys else 0)
        return State(name, policy.limit, left, debt / MICROSECONDS)

    def _meet(self, known: tuple[object, ...], counted: list[tuple[Policy, str]]) -> Caller:
        if len(self._callers) >= REMEMBERED:
            # Whoever has been known for longest begins with a new block when it comes again.
            del self._callers[next(iter(self._callers))]
        caller = self._callers[known] = Caller(counted)
        return caller

    def _counted(
        self, kind: Kind, place: str, who: "Identity | None" = None, url: str = "", *, elsewhere: bool = False
    ) -> list[tuple[Policy, str]]:
        """The policies for a request, with the keys of whom they count."""
        found = self._counted_for(who) if who else []
        if kind == "create" and who:
            found.append((self._policies["create"], str(who.user_id)))
        if kind == "url":
            found.append((self._policies["url"], url))
        if kind == "login":
            found.append((self._policies["login"], place))
        if elsewhere:
            found.append((self._policies["elsewhere"], place))
        found.append((self._policies["address"], place))
        return [(policy, self._key(policy.name, subject)) for policy, subject in found]

    def _counted_for(self, who: "Identity") -> list[tuple[Policy, str]]:
        """A key counts for itself, so that a script leaves its user the user's own; all keys of a user count together
        as well, or more keys would be more requests."""
        api, keys = self._policies["api"], self._policies["keys"]
        if own := who.requests_per_minute:
            api, keys = gcra.policy("api", own), gcra.policy("keys", 2 * own)
        if who.key_id is None:
            return [(api, str(who.user_id))]
        return [(api, str(who.key_id)), (keys, str(who.user_id))]

    def _key(self, name: str, subject: str) -> str:
        return self._kv.key("limit", name, subject) if self._kv else f"{name}:{subject}"

    def refusal(self, caller: Caller) -> errors.RateLimited:
        violated = caller.violated()
        for policy, key in violated:
            metrics.ratelimit_denied.labels(policy.name, self._lender.where).inc()
            self._denials.tell(key, object=("policy", policy.name), limit=policy.limit)
        names = [policy.name for policy, _ in violated]
        return errors.RateLimited(TOO_MANY, policies=names, retry_after=caller.wait_seconds())
