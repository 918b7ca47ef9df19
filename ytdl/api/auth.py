"""Accounts over HTTP: registration, sign-in and sign-out, the own profile, tickets for browsers."""

from aiohttp import hdrs, web

from ytdl import users
from ytdl.api.http import Answer, client_ip, path_uuid, who
from ytdl.api.keys import AUTH, CONFIG, DB
from ytdl.auth import Credentials, PasswordChange, Ticket, Tokens
from ytdl.sessions import SessionFilter, SessionPage
from ytdl.users import Profile, ProfileChange, Registration


async def register(request: web.Request, body: Registration) -> Profile:
    """Make an account.

    Where registration is closed, this is answered with 403 and an admin makes the accounts.
    """
    db, config = request.app[DB], request.app[CONFIG]
    user = await users.register(db, request.app[AUTH].hasher, config, body)
    return await users.profile(db, config, user.id)


async def login(request: web.Request, body: Credentials) -> Tokens:
    """Sign in with a user name and a password, for an access token and a refresh token.

    After some failures in a row the name is locked for a while, whether or not somebody has it.
    """
    agent = request.headers.get(hdrs.USER_AGENT)
    ip = client_ip(request) or None
    return await request.app[AUTH].sign_in(body.username, body.password, ip=ip, agent=agent)


async def logout(request: web.Request) -> Answer:
    """Sign out.

    Ends this session: its access tokens and its refresh token stop working at once, here and everywhere.
    """
    await request.app[AUTH].sign_out(who(request))
    # Single resources may be kept by a browser, to be asked about again; they are to go with their user.
    return Answer(None, headers={"Clear-Site-Data": '"cache"'})


async def profile(request: web.Request) -> Profile:
    """Look at your account, what it may use and what it uses."""
    return await users.profile(request.app[DB], request.app[CONFIG], who(request).user_id)


async def change_profile(request: web.Request, body: ProfileChange) -> Profile:
    """Change your e-mail address or full name; what is left out stays."""
    await users.change(request.app[DB], who(request).user_id, body)
    return await profile(request)


async def change_password(request: web.Request, body: PasswordChange) -> None:
    """Change your password.

    Every other session of yours ends. A wrong current password counts like a failed sign-in. Of changes at once one is
    made; the others get 409, which counts for nothing.
    """
    await request.app[AUTH].change_password(who(request), body)


async def sessions(request: web.Request, query: SessionFilter) -> SessionPage:
    """List where you are signed in, newest first."""
    identity = who(request)
    return await request.app[AUTH].sessions.page(identity.user_id, query, current=identity.session_id)


async def end_session(request: web.Request) -> None:
    """Sign out elsewhere: end one of your sessions, at once and everywhere."""
    await request.app[AUTH].sessions.revoke_own(who(request).user_id, path_uuid(request, "id"))


async def issue_ticket(request: web.Request) -> Ticket:
    """Get a ticket for a stream or a file.

    For browsers, which cannot send a header there: `?ticket=` is good for one use within a minute.
    """
    return await request.app[AUTH].issue_ticket(who(request))
