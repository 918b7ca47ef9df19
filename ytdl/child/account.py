"""As whom the site is asked: first as nobody or as the operator, then as the download's own user if it wants one.

The user's cookies come from the service over the job's own pipe, when they are needed and not before. They go into the
process that extracts and end with it; nothing is written, and what the site changes of them is not kept.
"""

import os
from collections.abc import Callable

from ytdl.child import extract
from ytdl.child.client import Client
from ytdl.child.errors import WANTS_ACCOUNT, Refused
from ytdl.child.frames import Account, Frame, Locked, Order, Setup, decode_account, unpack_length
from ytdl.child.guard import Guard

Ask = Callable[[str | None], Account]

_UNUSABLE = {
    "expired": "The site wants a signed-in user, and the cookies that you uploaded have expired.",
    "refused": "The site wants a signed-in user, and does not take the cookies that you uploaded.",
    "unreadable": "The site wants a signed-in user, and the cookies that you uploaded cannot be read any more.",
}


def plan(order: Order, setup: Setup, client: Client, guard: Guard, ask: Ask) -> extract.Plan:
    """What is to be fetched, asked as one identity at a time; Refused says why there is nothing.

    Without the user's cookies the refusal stays what the site said; with unusable ones it is `cookies_refused`.
    """
    account = ask(None) if order.account else Account()
    if not account.cookies:
        client.use_cookies(setup.cookies_file)
        try:
            return extract.apart(order, setup, client, guard)
        except Refused as refused:
            if refused.code not in WANTS_ACCOUNT:
                raise
            account = _need(ask, refused)
        client.forget_cookies()
    return extract.apart(order, setup, client, guard, account.cookies)


def _need(ask: Ask, refused: Refused) -> Account:
    account = ask(refused.code)
    if account.cookies:
        return account
    if account.missing in _UNUSABLE:
        raise Refused("cookies_refused", _UNUSABLE[account.missing]) from refused
    raise refused


def asking(send: Callable[[Frame], None], answers: int) -> Ask:
    """Asks with a frame, and reads the answer from the descriptor `answers`."""

    def ask(code: str | None) -> Account:
        send(Locked(code))
        return decode_account(_read(answers, unpack_length(_read(answers, 4))))

    return ask


def _read(fd: int, size: int) -> bytes:
    """Exactly so much; when the service is gone, so is this process."""
    data = b""
    while len(data) < size:
        piece = os.read(fd, size - len(data))
        if not piece:
            raise Refused("child_killed", "The download's process was stopped.")
        data += piece
    return data
