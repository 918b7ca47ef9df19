"""What a job may reach: public addresses or the proxy alone, two programs, its own folders for writing.

Python's audit hooks see every connection with its resolved address, every program start, every opened file and
nearly every other change to the file system, whoever's Python code does it, and cannot be taken off again. What they
do not see of that is replaced in `os`. It stops a confused downloader (a redirect or manifest that points inside, a
name that resolves to loopback); it is no sandbox against native code, ffmpeg's and PyAV's writing included.
"""

import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

from ytdl.child.frames import Order, Setup
from ytdl.networks import Reach

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
_CLOSED_EVENTS = {
    *("os.system", "os.exec", "os.fork", "os.forkpty", "os.spawn", "pty.spawn"),
    *("socket.bind", "sqlite3.connect"),
    *("ctypes.dlopen", "ctypes.dlsym", "ctypes.dlsym/handle"),  # from there on nothing would be seen
}
_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_KINDS = (socket.SOCK_STREAM, socket.SOCK_DGRAM)
# What a request to a proxy begins with: the host and port of a tunnel, or a whole address.
_FOR_PROXIES = re.compile(rb"CONNECT ([^ ]+) |[A-Z]+ [a-zA-Z][a-zA-Z0-9+.-]*://([^/?# ]*)")


class Forbidden(PermissionError):
    """The job tried something it may not do."""


class Guard:
    """The rules of one job, as an audit hook. `refused_address` is the last address it was kept from."""

    def __init__(self, setup: Setup, order: Order) -> None:
        self._proxy = resolve_proxy(setup.proxy)
        self._direct = setup.proxy is None
        self._reach = Reach(setup.allowed_networks)
        self._programs = {program for program in (setup.ffmpeg, setup.deno) if program}
        self._folders = [os.path.realpath(folder) + "/" for folder in (order.work_dir, *order.earlier_dirs)]
        self.refused_address: str | None = None

    def install(self) -> None:
        """Put the rules in force for the rest of this process."""
        _close_what_no_hook_sees()
        sys.addaudithook(self.hook)

    def hook(self, event: str, args: tuple[Any, ...]) -> None:
        """Raises Forbidden for what is not allowed.

        Called by the interpreter for everything, so quick to say no.
        """
        if event == "open":
            self._check_file(args[0], args[2])
        elif event in _CHANGES:
            self._check_change(event, args)
        elif event.startswith(("socket.", "http.client.send")):
            self._check_network(event, args)
        elif event in ("subprocess.Popen", "os.posix_spawn"):
            self._check_program(args[0], args[1])
        elif event in _CLOSED_EVENTS:
            raise Forbidden(f"{event} is not for jobs")

    def _check_network(self, event: str, args: tuple[Any, ...]) -> None:
        if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
            if args[1] is not None:  # a message on what is connected already
                self._check_address(args[1])
        elif event == "socket.__new__":
            # The kind's higher bits say how it blocks and is inherited.
            if args[1] not in _FAMILIES or args[2] & 0xF not in _KINDS:
                raise Forbidden("a job talks TCP and UDP alone")
        elif event == "http.client.send" and isinstance(args[1], bytes) and (found := _FOR_PROXIES.match(args[1])):
            self.check_host(_host_of((found[1] or found[2]).decode("latin-1")))
        elif event in _CLOSED_EVENTS:
            raise Forbidden(f"{event} is not for jobs")

    def _check_address(self, target: Any) -> None:
        if not isinstance(target, tuple) or not self._may_reach(str(target[0]), int(target[1])):
            self._refuse(str(target))

    def _may_reach(self, host: str, port: int) -> bool:
        # A name here would be resolved again, perhaps to something else.
        return (host, port) in self._proxy or (self._direct and self._reach.allows(host))

    def check_host(self, host: str) -> None:
        """Raises Forbidden for a host that a proxy must not be asked for: nobody sees what it connects to."""
        if not self._reach.allows_unresolved(host):
            self._refuse(host)

    def _refuse(self, target: str) -> NoReturn:
        self.refused_address = target or "nowhere"
        raise Forbidden(f"{target} is out of bounds for downloads")

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


def _host_of(authority: str) -> str:
    """The standard library writes an IPv6 address before a port without brackets."""
    place = authority.rpartition("@")[2]
    if place.startswith("["):
        return place[1:].partition("]")[0]
    host, colon, port = place.rpartition(":")
    return host if colon and port.isdigit() else place


def _close_what_no_hook_sees() -> None:
    """Two functions raise no event, and that of `os.open` does not say to which folder a path is relative."""
    os.mkfifo = os.mknod = _refuse_node
    if os.open.__name__ != "_open_here":
        os.open = _open_here_by(os.open)


def _refuse_node(*_: Any, **__: Any) -> NoReturn:
    raise Forbidden("a job makes files and folders only")


def _open_here_by(real: Callable[..., int]) -> Callable[..., int]:
    def _open_here(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None and flags & _WRITING:
            raise Forbidden("a job opens files by their whole names")
        return real(path, flags, mode, dir_fd=dir_fd)

    return _open_here


def resolve_proxy(url: str | None) -> set[tuple[str, int]]:
    """The proxy's host and port as written and as they resolve; nothing without a proxy."""
    if not url:
        return set()
    parts = urlsplit(url if "://" in url else f"http://{url}")
    usual = 1080 if parts.scheme.startswith("socks") else 443 if parts.scheme == "https" else 80
    host, port = parts.hostname or "", parts.port or usual
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return {(host, port), *((str(entry[4][0]), port) for entry in found)}
