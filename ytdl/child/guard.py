"""What a job may reach: public addresses or the proxy alone, two programs, its own folders for writing.

Python's audit hooks see every connection with its resolved address, every program start, every opened file and
nearly every other change to the file system, whoever's Python code does it, and cannot be taken off again. They do
not see `os.mkfifo` and `os.mknod`, nor to which folder `os.open` is relative when it is given one. It stops a
confused downloader (a redirect or manifest that points inside, a name that resolves to loopback); it is no sandbox
against native code, ffmpeg's and PyAV's writing included.
"""

import ipaddress
import os
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ytdl.child.frames import Order, Setup

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# IANA's special-purpose registries, written out: what `ipaddress` calls global differs between Python's
# releases and takes multicast and translated loopback for public.
_CLOSED_V4 = [
    ipaddress.ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15"),
        *("198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
    )
]
_OPEN_V6 = ipaddress.ip_network("2000::/3")
_CLOSED_V6 = [ipaddress.ip_network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Each event that changes a name or what is behind it: which arguments are paths, and which the folder, open as a
# descriptor, that the path is relative to.
_CHANGES: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.rename": ((0, 2), (1, 3)),  # os.replace and pathlib too
    "os.link": ((0, 2), (1, 3)),  # the source as well: whoever has a second name of a file can write to it
    "os.symlink": ((1, 2),),
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.setxattr": ((0, None),),
    "os.removexattr": ((0, None),),
}
_PROGRAM_EVENTS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "pty.spawn")


class Forbidden(PermissionError):
    """The job tried something it may not do."""


class Guard:
    """The rules of one job, as an audit hook. `refused_address` is the last address it was kept from."""

    def __init__(self, setup: Setup, order: Order) -> None:
        self._proxy = resolve_proxy(setup.proxy)
        self._direct = setup.proxy is None
        self._allowed = [ipaddress.ip_network(text) for text in setup.allowed_networks]
        self._programs = {program for program in (setup.ffmpeg, setup.deno) if program}
        self._folders = [os.path.realpath(folder) + "/" for folder in (order.work_dir, *order.earlier_dirs)]
        self.refused_address: str | None = None

    def install(self) -> None:
        """Put the rules in force for the rest of this process."""
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """Raises Forbidden for what is not allowed.

        Called by the interpreter for everything, so quick to say no.
        """
        if event == "open":
            self._check_file(args[0], args[2])
        elif event in _CHANGES:
            self._check_change(event, args)
        elif event in ("socket.connect", "socket.sendto"):
            self._check_address(args[1])
        elif event == "socket.bind":
            raise Forbidden("a job listens to nobody")
        elif event in ("subprocess.Popen", "os.posix_spawn"):
            self._check_program(args[0], args[1])
        elif event in _PROGRAM_EVENTS:
            raise Forbidden(f"{event} is not for jobs")

    def _check_address(self, target: Any) -> None:
        if not isinstance(target, tuple) or not self._may_reach(str(target[0]), int(target[1])):
            self.refused_address = str(target)
            raise Forbidden(f"{target} is out of bounds for downloads")

    def _may_reach(self, host: str, port: int) -> bool:
        if (host, port) in self._proxy:
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False  # a name here would be resolved again, perhaps to something else
        return self._direct and (is_public(address) or is_in(address, self._allowed))

    def is_closed(self, host: str) -> bool:
        """Whether a host is written as an address that jobs may not reach, for connections that a proxy makes."""
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        return not is_public(address) and not is_in(address, self._allowed)

    def _check_program(self, executable: Any, arguments: Any) -> None:
        wanted = executable if executable is not None else arguments[0]
        if os.fsdecode(wanted) not in self._programs:
            raise Forbidden(f"{wanted!r} is not a program for jobs")

    def _check_file(self, path: Any, flags: int | None) -> None:
        if not isinstance(path, str | bytes | os.PathLike) or not (flags or 0) & _WRITING:
            return
        full = os.path.realpath(os.fsdecode(path))
        if full != os.devnull:
            self._check_place(full)

    def _check_change(self, event: str, args: tuple[Any, ...]) -> None:
        """Both the name and what a link of that name leads to must be ours: some calls follow links, some do not."""
        for path, folder in _CHANGES[event]:
            full = _locate(args[path], -1 if folder is None else args[folder])
            self._check_place(os.path.realpath(full))
            self._check_place(f"{os.path.realpath(full.parent)}/{full.name}")

    def _check_place(self, full: str) -> None:
        if not any(full.startswith(folder) for folder in self._folders):
            raise Forbidden(f"{full} is outside the folders of this job")


def _locate(path: Any, folder: int) -> Path:
    """A path as it is meant: an open file by its descriptor, a relative path from `folder` unless that is -1."""
    if isinstance(path, int):
        return Path(os.path.realpath(f"/proc/self/fd/{path}"))
    base = "" if folder == -1 else os.path.realpath(f"/proc/self/fd/{folder}")
    return Path(base, os.fsdecode(path))


def is_public(address: Address) -> bool:
    """Whether an address is on the public internet, judged by the address that is meant in the end."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped:
            return is_public(address.ipv4_mapped)
        return address in _OPEN_V6 and not is_in(address, _CLOSED_V6)
    return not is_in(address, _CLOSED_V4)


def is_in(address: Address, networks: Iterable[Network]) -> bool:
    """Whether one of the networks has the address."""
    return any(address.version == network.version and address in network for network in networks)


def resolve_proxy(url: str | None) -> set[tuple[str, int]]:
    """The proxy's host and port as written and as they resolve; nothing without a proxy."""
    if not url:
        return set()
    parts = urlsplit(url if "://" in url else f"http://{url}")
    usual = 1080 if parts.scheme.startswith("socks") else 443 if parts.scheme == "https" else 80
    host, port = parts.hostname or "", parts.port or usual
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {(host, port), *((str(entry[4][0]), port) for entry in found)}
