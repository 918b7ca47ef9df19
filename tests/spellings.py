"""Ways to write an address that must not be reached, and a server on this machine that hears whoever gets through."""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Self

# What this machine itself answers to, at least for one of the resolvers around.
LOOPBACK = [
    *("127.0.0.1", "127.1", "127.0.1", "127.000.000.001", "127.0.0.1.", "127.255.255.254", "127.8.8.8"),
    *("0177.0.0.1", "0177.0.0.01", "0x7f.0.0.1", "0X7F.0.0.0x1", "0x7f.1", "0x7f000001", "0X7F000001"),
    *("2130706433", "017700000001", "0000017700000001", "0.0.0.0", "0", "00", "0x0", "0.0"),
    *("[::1]", "[0:0:0:0:0:0:0:1]", "[0000:0000:0000:0000:0000:0000:0000:0001]", "[::]", "[::0]", "[::1%lo]"),
    *("[::1%251]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::FFFF:7F00:0001]", "[0:0:0:0:0:ffff:7f00:1]"),
    *("[::ffff:0.0.0.0]", "localhost", "LOCALHOST", "localhost.", "ip6-localhost", "ip6-loopback", "a.localhost"),
]
# What no resolver should take for an address; what a careless normalisation makes one of.
DISGUISED = [
    *("\uff11\uff12\uff17.0.0.1", "127\u30020\u30020\u30021", "\u2460\u2461\u2466.0.0.1", "%31%32%37.0.0.1"),
    *("127%2e0%2e0%2e1", "127.0.0.1%00", "127.0.0.1%20", "127.0.0.1%2f.youtube.com", "%6c%6f%63%61%6c%68%6f%73%74"),
    *("\u217cocalhost", "loc\u00adalhost", "256.256.256.256", "127.0.0.1.1", "0x7f.0x1.0x1.0x1.0x1", "[127.0.0.1]"),
    *("[::ffff:127.1]", "[::1", "::1", "4294967297"),
]
# Inside of some network, or standing for an inner address in other clothes.
ELSEWHERE = [
    *("10.0.0.1", "172.16.0.1", "192.168.0.1", "100.64.0.1", "198.18.0.1", "192.88.99.1", "224.0.0.1"),
    *("255.255.255.255", "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "169.254.43518"),
    *("169.16689662", "100.100.100.200", "192.0.0.192", "168.63.129.16", "[fd00:ec2::254]", "[::ffff:169.254.169.254]"),
    *("[::ffff:a9fe:a9fe]", "[64:ff9b::7f00:1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]"),
    *("[2002:a9fe:a9fe::]", "[2001:0:4136:e378:8000:63bf:80ff:fffe]", "[2001:0:7f00:1::]", "[::127.0.0.1]"),
    *("[::ffff:0:127.0.0.1]", "[fe80::1%25eth0]", "[fe80::1]", "[fec0::1]", "[fc00::1]", "[ff02::1]", "[100::1]"),
    *("[5f00::1]", "[2001:20::1]", "[2001:db8::1]", "[3fff::1]", "[2a00:1450::5efe:7f00:1]"),
    *("metadata.google.internal", "metadata", "instance-data", "kubernetes.default.svc", "db.local"),
]
HOSTS = [*LOOPBACK, *DISGUISED, *ELSEWHERE]
# Whole addresses in which one reader sees another host than the next; {port} is the listening one's.
ADDRESSES = [
    "http://youtube.com@127.0.0.1:{port}/",
    "http://www.youtube.com:443@127.0.0.1:{port}/",
    "http://www.youtube.com%2f@127.0.0.1:{port}/",
    "http://user:word@[::1]:{port}/",
    "http://127.0.0.1:{port}\\@www.youtube.com/",
    "http://www.youtube.com\\@127.0.0.1:{port}/",
    "http:\\\\127.0.0.1:{port}/",
    "http://127.0.0.1:{port}#@www.youtube.com/",
    "http://127.0.0.1:{port}?@www.youtube.com/",
    "http://127.0.0.1:{port};www.youtube.com/",
    "http:127.0.0.1:{port}/",
    "http:/127.0.0.1:{port}/",
    "http:///127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "HTTP://127.0.0.1:{port}/",
    "ht\ntp://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}\t/",
    "http://127.0.0.1\r\nHost: www.youtube.com:{port}/",
    " http://127.0.0.1:{port}/",
    "http://www.youtube.com.127.0.0.1.nip.io:{port}/",
    "ftp://127.0.0.1:{port}/",
    "ws://127.0.0.1:{port}/",
    "gopher://127.0.0.1:{port}/",
    "file:///etc/passwd",
    "file://127.0.0.1/etc/passwd",
    "jar:http://127.0.0.1:{port}/!/",
    "http+unix://%2Frun%2Fdocker.sock/",
]


def bare(host: str) -> str:
    """As a socket takes it."""
    return host.replace("%25", "%")[1:].removesuffix("]") if host.startswith("[") else host


class Listener:
    """Counts connections to any address of this machine, and answers each with a page."""

    def __init__(self) -> None:
        self.visits = 0
        self._door = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
        self.port = int(self._door.getsockname()[1])
        self._thread = threading.Thread(target=self._answer, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, _e: BaseException | None, _t: TracebackType | None) -> None:
        self._door.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._door.close()

    def _answer(self) -> None:
        while True:
            try:
                visitor, _ = self._door.accept()
            except OSError:
                return
            self.visits += 1
            with visitor, contextlib.suppress(OSError):
                visitor.settimeout(10)
                visitor.recv(4096)
                visitor.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
