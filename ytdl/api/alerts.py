"""Alerts over HTTP, for admins: what fires and what did, figures of it, taking an alert up and giving it back."""

import re

from aiohttp import web

from ytdl import alert_history, errors
from ytdl.acknowledgements import Acknowledge
from ytdl.alert_history import AlertStats, AlertWindow
from ytdl.alerts import FINGERPRINT, Acknowledgement, AlertFilter, AlertList
from ytdl.api.http import who
from ytdl.api.keys import ACKNOWLEDGEMENTS, ALERTMANAGER, ALERTS, DB


async def page(request: web.Request, query: AlertFilter) -> AlertList:
    """List alerts that fire, the worst first, with who has taken them up.

    With `state=ended` those of the last 400 days that ended, the newest first. Alertmanager is asked each time; with
    none at ALERTMANAGER_URL the answer is 503.
    """
    return await request.app[ALERTS].page(query)


async def stats(request: web.Request, query: AlertWindow) -> AlertStats:
    """Tell how many alerts fire, and of a window of time how many began and how soon they were taken up and ended."""
    return await alert_history.stats(request.app[DB], request.app[ALERTMANAGER], query)


async def acknowledge(request: web.Request, body: Acknowledge) -> Acknowledgement:
    """Take an alert up: it is silenced in Alertmanager for some time, in your name, and no longer than it lasts.

    One that is silenced already is left as it is, and the answer says by whom. A warning that nobody takes up within
    half an hour becomes a critical alert.
    """
    caller = who(request)
    return await request.app[ACKNOWLEDGEMENTS].acknowledge(body, user_id=caller.user_id, username=caller.username)


async def withdraw(request: web.Request) -> None:
    """Give an alert back: its silence ends, so that it is told of again, and may become a critical one."""
    await request.app[ACKNOWLEDGEMENTS].withdraw(_fingerprint(request.match_info["fingerprint"]))


def _fingerprint(text: str) -> str:
    """What is no fingerprint is unknown, like any other that does not exist."""
    if not re.fullmatch(FINGERPRINT, text):
        raise errors.NotFound("That alert is not acknowledged.")
    return text
