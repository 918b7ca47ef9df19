"""Which addresses are on the public internet, and which of the others an operator has opened.

IANA's registries of special-purpose addresses stand here written out: what `ipaddress` calls global differs between
Python's releases and takes multicast and translated loopback for public. One rule for whoever goes out, the jobs in
their processes and the service itself, so this imports the standard library alone.
"""

import ipaddress
import re
from collections.abc import Iterable

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# fmt: off
CLOSED_V4 = (
    "0.0.0.0/8",        # this network
    "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",            # private
    "100.64.0.0/10",    # shared by the customers of a carrier
    "127.0.0.0/8",      # loopback
    "169.254.0.0/16",   # link-local, and where clouds keep credentials
    "192.0.0.0/24",     # protocol assignments
    "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24",        # documentation
    "192.31.196.0/24", "192.175.48.0/24",                       # AS112: answers for private names
    "192.52.193.0/24",  # relays of multicast
    "192.88.99.0/24",   # relays of 6to4
    "198.18.0.0/15",    # benchmarks
    "224.0.0.0/4",      # multicast
    "240.0.0.0/4",      # reserved, broadcast
    "168.63.129.16/32", # inside Azure the host's own services, though registered as ordinary
)
OPEN_V6 = "2000::/3"
"""All that is given out as global unicast. What lies outside is special or nobody's: loopback, mapped and compatible
IPv4, both NAT64 prefixes, discard-only 100::/64, 5f00::/16, unique local, link- and site-local, multicast."""
CLOSED_V6 = (
    "2001::/23",        # Teredo, benchmarks, ORCHID and other assignments of protocols
    "2001:db8::/32", "3fff::/20",                               # documentation
    "2002::/16",        # 6to4: another IPv4 address is meant
    "2620:4f:8000::/48",  # AS112
    "3ffe::/16",        # the 6bone, given back
)
# fmt: on
_CLOSED: tuple[Network, ...] = tuple(ipaddress.ip_network(text) for text in (*CLOSED_V4, *CLOSED_V6))
_OPEN_V6 = ipaddress.ip_network(OPEN_V6)
# The interface's half of an ISATAP address (RFC 5214) without the bit that says whether IPv4 is unique: IPv4 follows.
_ISATAP, _ISATAP_UNIQUE = 0x00005EFE, 0x02000000

_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.ASCII | re.IGNORECASE)
# Where names end that mean something inside a house or a machine only.
_INNER = frozenset(
    (
        *("alt", "arpa", "corp", "home", "internal", "intranet", "invalid", "lan", "local", "localdomain"),
        *("localhost", "onion", "private", "test"),
    )
)


class Reach:
    """What may be reached: what is public, and what is in one of the `opened` networks."""

    def __init__(self, opened: Iterable[str] = ()) -> None:
        self.opened = tuple(ipaddress.ip_network(text) for text in opened)

    def allows(self, host: str) -> bool:
        """Whether a host is an address, written in the usual way, that may be reached; never so for a name."""
        address = read(host)
        return (address is not None and is_public(address)) or self.opens(host)

    def opens(self, host: str) -> bool:
        """Whether it is an address in one of the opened networks."""
        address = read(host)
        return address is not None and is_in(address, self.opened)

    def allows_unresolved(self, host: str) -> bool:
        """The same where somebody else will resolve names: what can only be a name of the internet passes too."""
        return self.allows(host) or (is_name(host) and not is_inner(host))


def read(host: str) -> Address | None:
    """The address that a host is, without its zone and as the IPv4 address that it may be mapped from."""
    try:
        return _unwrap(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        return None


def read_network(text: str) -> Network | None:
    """The network, or the address as a network, that a text is, of IPv4 where it is mapped from there; what follows the
    prefix is left out."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return ipaddress.ip_network((mapped, network.prefixlen - 96)) if mapped else network


def _unwrap(address: Address) -> Address:
    return getattr(address, "ipv4_mapped", None) or address


def unmapped(network: Network) -> Network:
    """A network of IPv4 addresses in IPv6 as the IPv4 network that is meant; any other as it is."""
    mapped = network.network_address.ipv4_mapped if isinstance(network, ipaddress.IPv6Network) else None
    return ipaddress.ip_network((mapped, network.prefixlen - 96)) if mapped and network.prefixlen >= 96 else network


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, judged by the address that is meant in the end."""
    address = _unwrap(address)
    if isinstance(address, ipaddress.IPv4Address):
        return not is_in(address, _CLOSED)
    if (int(address) >> 32) & 0xFFFFFFFF & ~_ISATAP_UNIQUE == _ISATAP:
        return False
    return address in _OPEN_V6 and not is_in(address, _CLOSED)


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks has the address."""
    return any(address.version == network.version and address in network for network in networks)


def is_name(host: str) -> bool:
    """Whether a host can only be a name. Resolvers read `127.1`, `0x7f.1` and `2130706433` as addresses."""
    labels = host.removesuffix(".").split(".")
    return all(map(_LABEL.fullmatch, labels)) and len(host) <= 253 and not labels[-1][0].isdigit()


def is_inner(name: str) -> bool:
    """Whether a name means something inside a house or a machine only."""
    labels = name.lower().removesuffix(".").split(".")
    return len(labels) == 1 or labels[-1] in _INNER
