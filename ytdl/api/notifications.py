"""Who is told of alerts, over HTTP: for admins to set, and the way on which Alertmanager's text messages come in."""

import msgspec
from aiohttp import hdrs, web

from ytdl.api import decoding
from ytdl.api.http import who
from ytdl.api.keys import NOTIFICATIONS, TEXTS
from ytdl.notifications import NotificationAnswer, NotificationState, NotificationWish
from ytdl.sms import Notification

_notification = msgspec.json.Decoder(Notification)


async def state(request: web.Request) -> NotificationState:
    """Look at who is told of alerts.

    Secrets are masked: of an address the server is shown, of a token nothing. A channel that is sent back like that
    keeps its secrets.
    """
    return await request.app[NOTIFICATIONS].state()


async def change(request: web.Request, body: NotificationWish) -> NotificationAnswer:
    """Set who is told of alerts, and by which way.

    Alertmanager's configuration is made of it, and Alertmanager works by it when this is answered; what it refuses is
    not kept. What is left out stays as it is, and so do a channel's secrets. With `test` each channel is sent a
    message, and the answer says what became of it; while another test runs nothing is done, which a conflict says.
    """
    return await request.app[NOTIFICATIONS].change(body, who(request).user_id)


async def receive(request: web.Request) -> None:
    """Hand in a notification of Alertmanager's, to be sent as text messages.

    For Alertmanager alone, with the token that is in its configuration. The body is that of its webhooks, version 4.
    An answer of 503 asks it to try again soon; what was sent already is not sent again then.
    """
    token = request.headers.get(hdrs.AUTHORIZATION, "").removeprefix("Bearer ")
    admitted = await request.app[TEXTS].admit(request.match_info["channel"], token)
    await request.app[TEXTS].send(admitted, await decoding.body(request, _notification))
