"""Who is asking: the client's address, and the identity behind a token or ticket."""

import functools
import ipaddress
import re
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from aiohttp import hdrs, web

from ytdl import apikeys, errors, log, metrics, networks
from ytdl.api.keys import API_KEYS, AUTH, CHALLENGE, CONFIG, DENIALS, IDENTITY, ROUTE

if TYPE_CHECKING:
    from ytdl.auth import Identity

_WITH_PORT = re.compile(r"([0-9.]+):[0-9]{1,5}|\[([^\]]*:[^\]]*)\](?::[0-9]{1,5})?")
SIGN_IN = "Sign in first: this needs the header Authorization: Bearer <access token or API key>."


async def authenticate(request: web.Request, ticket: bool) -> None:
    """Leaves the identity in the request. Raises `Unauthorized`.

    A ticket counts only where the route allows it, and only without an Authorization header.
    """
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    spent = request.query.get("ticket") if ticket and not scheme else None
    if spent is None and (scheme.lower() != "bearer" or not token.strip()):
        raise errors.Unauthorized(SIGN_IN)
    try:
        identity = await (_identify(request.app, token.strip()) if spent is None else request.app[AUTH].redeem(spent))
    except errors.Unauthorized:
        request[CHALLENGE] = ', error="invalid_token"'
        raise
    request[IDENTITY] = identity
    log.user_id.set(str(identity.user_id))
    log.credential_id.set(str(identity.credential_id))


def _identify(app: web.Application, token: str) -> "Awaitable[Identity]":
    return app[API_KEYS].identify(token) if apikeys.is_key(token) else app[AUTH].identify(token)


def authorize(request: web.Request, role: str, *, session: bool, scope: str) -> None:
    """Whether who asks may do this at all; what is whose is for the features to say. Raises `Forbidden`, which goes
    on record."""
    identity = request[IDENTITY]
    refusal = _refusal(identity, role, session=session, scope=scope)
    if refusal:
        reason, sentence = refusal
        route = f"{request.method} {request[ROUTE]}"
        metrics.access_denied.labels(reason).inc()
        request.app[DENIALS].tell((identity.user_id, route, reason), reason=reason, route=route)
        raise errors.Forbidden(sentence)


def _refusal(identity: "Identity", role: str, *, session: bool, scope: str) -> tuple[str, str] | None:
    if role == "admin" and identity.role != "admin":
        return "role", "This is for admins."
    if session and identity.session_id is None:
        return "session", "This is for somebody signed in; an API key cannot do it."
    if scope == "write" and identity.scope != "write":
        return "scope", "This API key may only read."
    return None


def client_ip(request: web.Request) -> str:
    """The address nearest to the client that somebody trusted has seen; empty for a socket without addresses.

    A forwarded address is believed only from TRUSTED_PROXIES, and read from the right: what stands left of
    the first address that is not a proxy of ours was written by the client.
    """
    address = plain(request.remote or "")
    proxies = request.app[CONFIG].trusted_proxies
    if not proxies:
        return address
    hops = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ())).split(",")
    while hops and _within(address, proxies) and (hop := _hop(hops.pop().strip())):
        address = hop
    return address


@functools.lru_cache(maxsize=4096)
def _within(address: str, networks: tuple[str, ...]) -> bool:
    return bool(address) and any(ipaddress.ip_address(address) in ipaddress.ip_network(n) for n in networks)


@functools.lru_cache(maxsize=4096)
def _hop(text: str) -> str:
    """A forwarded address; some proxies write the client's port behind it, and then an IPv6 address in brackets."""
    with_port = _WITH_PORT.fullmatch(text)
    return plain((with_port[1] or with_port[2]) if with_port else text)


@functools.lru_cache(maxsize=4096)
def plain(text: str) -> str:
    """An address in its canonical form, an IPv4 address in IPv6 as IPv4, without the name of an interface; empty for
    anything else."""
    return str(networks.read(text) or "")
