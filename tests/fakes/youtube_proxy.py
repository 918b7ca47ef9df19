"""The way in to the YouTube stand-in: a CONNECT proxy that ends TLS itself, and its authority.

For the service's own hosts the connection becomes TLS and is handed to the origin's HTTP protocol inside this
process, so no byte is copied twice. Every other host is refused with 502 and written down: tests can prove
that nothing else was asked for.
"""

import asyncio
import datetime as dt
import ssl
import weakref
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DOMAINS = ("youtube.com", "youtu.be", "googlevideo.com", "ytimg.com")
HANDSHAKE_SECONDS = 20
HEAD_LIMIT = 16_384
SETTLE_SECONDS = 0.01


def make_authority(folder: Path, domains: tuple[str, ...] = DOMAINS) -> tuple[Path, ssl.SSLContext]:
    """Makes a new authority in `folder`. Returns the file to trust and a server context for the domains."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "YouTube stand-in test authority")])
    authority = (
        _draft(name, name, key.public_key(), key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca_file = folder / "authority.pem"
    ca_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    return ca_file, _server_context(folder, name, key, domains)


def _server_context(
    folder: Path, issuer: x509.Name, issuer_key: ec.EllipticCurvePrivateKey, domains: tuple[str, ...]
) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "YouTube stand-in")])
    hosts = [x509.DNSName(host) for domain in domains for host in (domain, f"*.{domain}")]
    certificate = (
        _draft(subject, issuer, key.public_key(), issuer_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(hosts), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )
    return _load(folder / "server.pem", certificate, key)


def _load(path: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> ssl.SSLContext:
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.touch(mode=0o600)
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + secret)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _draft(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.CertificateBuilder:
    now = dt.datetime.now(dt.UTC)
    signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
    return (
        x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(signer, critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


class Proxy:
    """Listens on loopback. `refused_hosts` and `broken_handshakes` say what didn't get through."""

    def __init__(self, context: ssl.SSLContext, new_origin: Callable[[], asyncio.Protocol]) -> None:
        self.context = context
        self.new_origin = new_origin
        self.refused_hosts: list[str] = []
        self.broken_handshakes: list[str] = []
        self.waiting: set[asyncio.Task[None]] = set()
        self.connections: weakref.WeakSet[asyncio.Transport] = weakref.WeakSet()
        self._server: asyncio.Server | None = None

    async def start(self, port: int) -> int:
        """Listens on 127.0.0.1; port 0 takes a free one. Returns the port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Entrance(self), "127.0.0.1", port, backlog=512)
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stops listening and breaks every connection; a polite end of TLS would have to be waited for."""
        await self._close_door()
        for task in self.waiting:
            task.cancel()
        await asyncio.gather(*self.waiting, return_exceptions=True)
        for connection in list(self.connections):
            connection.abort()
        # Sockets are closed in the round of the loop after the one in which they were aborted.
        await asyncio.sleep(SETTLE_SECONDS)

    async def _close_door(self) -> None:
        """Accepts no more, then closes: in one step, asyncio 3.11 loses what it has just accepted."""
        if self._server is None:
            return
        for door in self._server.sockets:
            asyncio.get_running_loop().remove_reader(door.fileno())
        await asyncio.sleep(SETTLE_SECONDS)
        self._server.close()


class _Entrance(asyncio.Protocol):
    """One connection until the origin takes it over: reads the CONNECT line, then waits for the handshake."""

    def __init__(self, proxy: Proxy) -> None:
        self.proxy = proxy
        self.received = b""
        self.answered = False
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.proxy.connections.add(transport)

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.received += data
        if self.answered:
            return
        if b"\r\n\r\n" in self.received:
            self.answered = True
            line, self.received = self.received.split(b"\r\n", 1)[0].decode("latin-1"), b""
            self._answer(self.transport, line)
        elif len(self.received) > HEAD_LIMIT:
            self.transport.abort()

    def _answer(self, transport: asyncio.Transport, line: str) -> None:
        method, _, rest = line.partition(" ")
        target = rest.split(" ")[0]
        host, _, port = target.rpartition(":")
        if method != "CONNECT" or port != "443" or not is_ours(host):
            self.proxy.refused_hosts.append(host if method == "CONNECT" else urlsplit(target).hostname or target)
            transport.write(b"HTTP/1.1 502 Not Here\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            transport.close()
            return
        transport.write(b"HTTP/1.1 200 Connection Established\r\n\r\n")
        task = asyncio.get_running_loop().create_task(self._hand_over(transport, host))
        self.proxy.waiting.add(task)
        task.add_done_callback(self.proxy.waiting.discard)

    async def _hand_over(self, transport: asyncio.Transport, host: str) -> None:
        loop, context = asyncio.get_running_loop(), self.proxy.context
        try:
            secure = await loop.start_tls(
                transport, self, context, server_side=True, ssl_handshake_timeout=HANDSHAKE_SECONDS
            )
        except OSError as error:
            self.proxy.broken_handshakes.append(f"{host}: {error}")
            transport.abort()
            return
        if secure is None or secure.is_closing():
            return
        # The first request may have come in the same packet as the end of the handshake: it is in `received`.
        origin = self.proxy.new_origin()
        secure.set_protocol(origin)
        origin.connection_made(secure)
        if self.received:
            origin.data_received(self.received)


def is_ours(host: str) -> bool:
    """Whether the stand-in answers for `host`."""
    host = host.lower().rstrip(".")
    return any(host == domain or host.endswith("." + domain) for domain in DOMAINS)
