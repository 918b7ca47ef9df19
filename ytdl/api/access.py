"""Who is asking: the client's address, and the identity behind a token or ticket."""

import functools
import ipaddress

from aiohttp import hdrs, web

from ytdl import errors, log
from ytdl.api.keys import AUTH, CHALLENGE, CONFIG, IDENTITY

SIGN_IN = "Sign in first: this needs the header Authorization: Bearer <access token>."


async def authenticate(request: web.Request, role: str, ticket: bool) -> None:
    """Leaves the identity in the request. Raises `Unauthorized`, and `Forbidden` for a user where an admin
    is needed.

    A ticket counts only where the route allows it, and only without an Authorization header.
    """
    scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    spent = request.query.get("ticket") if ticket and not scheme else None
    if spent is None and (scheme.lower() != "bearer" or not token.strip()):
        raise errors.Unauthorized(SIGN_IN)
    auth = request.app[AUTH]
    try:
        identity = await (auth.identify(token.strip()) if spent is None else auth.redeem(spent))
    except errors.Unauthorized:
        request[CHALLENGE] = ', error="invalid_token"'
        raise
    request[IDENTITY] = identity
    log.user_id.set(str(identity.user_id))
    log.credential_id.set(str(identity.credential_id))
    if role == "admin" and identity.role != "admin":
        raise errors.Forbidden("This is for admins.")


def client_ip(request: web.Request) -> str:
    """The address nearest to the client that somebody trusted has seen; empty for a socket without addresses.

    A forwarded address is believed only from TRUSTED_PROXIES, and read from the right: what stands left of
    the first address that is not a proxy of ours was written by the client.
    """
    address = _plain(request.remote or "")
    proxies = request.app[CONFIG].trusted_proxies
    if not proxies:
        return address
    hops = ",".join(request.headers.getall(hdrs.X_FORWARDED_FOR, ())).split(",")
    while hops and _within(address, proxies) and (hop := _plain(hops.pop().strip())):
        address = hop
    return address


@functools.lru_cache(maxsize=4096)
def _within(address: str, networks: tuple[str, ...]) -> bool:
    return bool(address) and any(ipaddress.ip_address(address) in ipaddress.ip_network(n) for n in networks)


@functools.lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """An address in its canonical form, an IPv4 address in IPv6 as IPv4; empty for anything else."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return ""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
