"""The networks that are refused just now, in memory, and how a client's address stands to them.

`Blocklist.seconds_left(address)` is asked with every request: once an address is known that is a look into a dict, and
before that one look for each length of prefix in the list, however many networks there are. Where the list comes from
is the caller's business. Loopback and what it was told to protect are never refused, whatever the list holds.
"""

import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from uuid import UUID

from ytdl import networks
from ytdl.networks import Network

LOOPBACK = ("127.0.0.0/8", "::1/128")
# Whoever has an IPv6 line has at least so much of it, and may change the rest of the address at will.
V6_PREFIX = 64
# Addresses that are remembered with their answer.
KNOWN = 8192


@dataclass(slots=True)
class Entry:
    """`until` is on the monotonic clock, so a clock that is set blocks nobody longer; `mark` is the row's share of the
    number that tells sets of rows apart. Where it goes in the list is worked out when it is made, so that taking up a
    long list at once holds up nobody."""

    id: UUID
    network: str
    until: float
    mark: int
    # IP version and length of the prefix, and the prefix as a number.
    kind: tuple[int, int] = field(init=False)
    number: int = field(init=False)

    def __post_init__(self) -> None:
        parsed = ipaddress.ip_network(self.network)
        self.kind = (parsed.version, parsed.prefixlen)
        self.number = int(parsed.network_address) >> (parsed.max_prefixlen - parsed.prefixlen)


def network_of(address: str) -> Network | None:
    """What a client's address is taken for: the address itself, of IPv6 its /64; None for what is no address."""
    found = networks.read(address)
    if found is None:
        return None
    # All link-local addresses of a line share one /64.
    narrow = isinstance(found, ipaddress.IPv4Address) or found.is_link_local
    return ipaddress.ip_network((found, found.max_prefixlen if narrow else V6_PREFIX), strict=False)


class Blocklist:
    def __init__(self, protected: Iterable[str] = ()) -> None:
        self._protected = [ipaddress.ip_network(text) for text in (*LOOPBACK, *protected)]
        self._by_id: dict[UUID, Entry] = {}
        # IP version and length of prefix -> the first bits as a number -> whoever has them.
        self._by_bits: dict[tuple[int, int], dict[int, Entry]] = {}
        self._known: dict[str, Entry | None] = {}

    def __len__(self) -> int:
        return len(self._by_id)

    def protects(self, network: Network) -> bool:
        """Whether the network has an address that must not be refused."""
        return any(network.version == p.version and network.overlaps(p) for p in self._protected)

    def seconds_left(self, address: str) -> float:
        """How long the address is refused yet; 0 when it is not. Takes addresses in their canonical form."""
        if not self._by_id:
            return 0.0
        try:
            entry = self._known[address]
        except KeyError:
            entry = self._search(address)
        if entry is None:
            return 0.0
        left = entry.until - time.monotonic()
        if left > 0:
            return left
        # It ran out; a wider network may last longer.
        entry = self._search(address)
        return max(0.0, entry.until - time.monotonic()) if entry else 0.0

    def _search(self, address: str) -> Entry | None:
        found = None
        now = time.monotonic()
        for entry in self._around(address):
            if entry.until > now and (found is None or entry.until > found.until):
                found = entry
        if len(self._known) >= KNOWN:
            self._known.clear()
        self._known[address] = found
        return found

    def _around(self, address: str) -> list[Entry]:
        """Every entry that holds the address, if nothing protects it."""
        try:
            parsed = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return []
        number, bits, version = int(parsed), parsed.max_prefixlen, parsed.version
        found = [
            entry
            for (kind, length), entries in self._by_bits.items()
            if kind == version and (entry := entries.get(number >> (bits - length)))
        ]
        return [] if found and self.protects(ipaddress.ip_network(parsed)) else found

    def put(self, *entries: Entry) -> None:
        for entry in entries:
            self._insert(entry)
        self._known.clear()

    def remove(self, id: UUID) -> Entry | None:
        """The entry that was there."""
        entry = self._by_id.pop(id, None)
        if entry:
            entries = self._by_bits.get(entry.kind, {})
            # A newer one for the same network may have taken the place.
            if entries.get(entry.number) is entry:
                del entries[entry.number]
            if not entries:
                self._by_bits.pop(entry.kind, None)
            self._known.clear()
        return entry

    def replace(self, entries: Iterable[Entry]) -> list[Entry]:
        """Holds these and no others; those that went are the answer."""
        before = self._by_id
        self._by_id, self._by_bits, self._known = {}, {}, {}
        for entry in entries:
            self._insert(entry)
        return [entry for id, entry in before.items() if id not in self._by_id]

    def _insert(self, entry: Entry) -> None:
        self._by_id[entry.id] = entry
        self._by_bits.setdefault(entry.kind, {})[entry.number] = entry

    def mark(self) -> int:
        """The marks of all that has not run out, in one; what has run out is forgotten."""
        now = time.monotonic()
        for id in [id for id, entry in self._by_id.items() if entry.until <= now]:
            self.remove(id)
        mark = 0
        for entry in self._by_id.values():
            mark ^= entry.mark
        return mark
