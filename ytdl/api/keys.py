"""Typed keys: what the application holds for handlers, and what a request learns on its way to one.

Only handlers and the wiring in `ytdl.app` use them; everything below HTTP gets plain arguments.
"""

from typing import TYPE_CHECKING

from aiohttp import web

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ytdl.accounts import Accounts
    from ytdl.acknowledgements import Acknowledgements
    from ytdl.alertmanager import Alertmanager
    from ytdl.alerts import Alerts
    from ytdl.apikeys import ApiKeys
    from ytdl.auth import Auth, Identity
    from ytdl.blocks import Blocks
    from ytdl.checkup import Checkup
    from ytdl.config import Config
    from ytdl.cookies import Cookies
    from ytdl.crypto import Hasher
    from ytdl.db import DB as Database
    from ytdl.denials import Denials
    from ytdl.downloads import Downloads
    from ytdl.events import Events
    from ytdl.health import Health
    from ytdl.kv import KV as Redis
    from ytdl.leases import Caller
    from ytdl.monitoring import Monitoring
    from ytdl.monitoring_report import Reporter
    from ytdl.notifications import Notifications
    from ytdl.offences import Offences
    from ytdl.ratelimit import Limiter
    from ytdl.sms import Texts
    from ytdl.thresholds import Thresholds
    from ytdl.vault import Vault
    from ytdl.worker import Worker

CONFIG: "web.AppKey[Config]" = web.AppKey("config")
DB: "web.AppKey[Database]" = web.AppKey("db")
KV: "web.AppKey[Redis]" = web.AppKey("kv")
VAULT: "web.AppKey[Vault]" = web.AppKey("vault")
EVENTS: "web.AppKey[Events]" = web.AppKey("events")
AUTH: "web.AppKey[Auth]" = web.AppKey("auth")
ACCOUNTS: "web.AppKey[Accounts]" = web.AppKey("accounts")
API_KEYS: "web.AppKey[ApiKeys]" = web.AppKey("api_keys")
BLOCKS: "web.AppKey[Blocks]" = web.AppKey("blocks")
OFFENCES: "web.AppKey[Offences]" = web.AppKey("offences")
DENIALS: "web.AppKey[Denials]" = web.AppKey("denials")
ALERTMANAGER: "web.AppKey[Alertmanager]" = web.AppKey("alertmanager")
ALERTS: "web.AppKey[Alerts]" = web.AppKey("alerts")
ACKNOWLEDGEMENTS: "web.AppKey[Acknowledgements]" = web.AppKey("acknowledgements")
LIMITER: "web.AppKey[Limiter]" = web.AppKey("limiter")
HEALTH: "web.AppKey[Health]" = web.AppKey("health")
CHECKUP: "web.AppKey[Checkup]" = web.AppKey("checkup")
MONITORING: "web.AppKey[Monitoring]" = web.AppKey("monitoring")
REPORTER: "web.AppKey[Reporter]" = web.AppKey("reporter")
THRESHOLDS: "web.AppKey[Thresholds]" = web.AppKey("thresholds")
NOTIFICATIONS: "web.AppKey[Notifications]" = web.AppKey("notifications")
TEXTS: "web.AppKey[Texts]" = web.AppKey("texts")
COOKIES: "web.AppKey[Cookies]" = web.AppKey("cookies")
DOWNLOADS: "web.AppKey[Downloads]" = web.AppKey("downloads")
WORKER: "web.AppKey[Worker]" = web.AppKey("worker")
HASHER: "web.AppKey[Hasher]" = web.AppKey("hasher")
# The password of the first admin where one was made at this start: said once and kept nowhere.
FIRST_PASSWORD: "web.AppKey[str | None]" = web.AppKey("first_password")
# What stands in every answer; it depends on the settings only.
HEADERS: "web.AppKey[Mapping[str, str]]" = web.AppKey("headers")
# The OpenAPI document, encoded once.
OPENAPI: "web.AppKey[bytes]" = web.AppKey("openapi")

IDENTITY: "web.RequestKey[Identity]" = web.RequestKey("identity")
REQUEST_ID: "web.RequestKey[str]" = web.RequestKey("request_id")
# The address nearest to the client that can be believed; empty for a socket without addresses.
ADDRESS: "web.RequestKey[str]" = web.RequestKey("address")
# Whom the request counted for; not there where nothing is limited.
CALLER: "web.RequestKey[Caller]" = web.RequestKey("caller")
# The template of the address in the route table, for counts and log lines.
ROUTE: "web.RequestKey[str]" = web.RequestKey("route")
# Parameters of the Bearer challenge, where a token was sent and refused (RFC 6750, section 3).
CHALLENGE: "web.RequestKey[str]" = web.RequestKey("challenge")
# The answer whose head was sent already: from then on no problem document can take its place.
BEGUN: "web.RequestKey[web.StreamResponse]" = web.RequestKey("begun")
# What is counted and logged instead of the status that was sent, where a begun answer broke off.
OUTCOME: "web.RequestKey[int]" = web.RequestKey("outcome")
# Of its trace, where that is told to a collector.
EXEMPLAR: "web.RequestKey[dict[str, str] | None]" = web.RequestKey("exemplar")
