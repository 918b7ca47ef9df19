"""The whole API as one table: every address, who may call it, what it takes and what it answers.

A row drives authorisation, decoding, encoding and the OpenAPI document, so the policy is read here and
nowhere else. Rows are wrapped by hand, to be read as a table.
"""

from typing import Any

from ytdl.accounts import Account, AccountChange, AccountFilter, AccountPage
from ytdl.acknowledgements import Acknowledge
from ytdl.alert_history import AlertStats, AlertWindow
from ytdl.alerts import Acknowledgement, AlertFilter, AlertList
from ytdl.api import (
    accounts,
    alerts,
    apikeys,
    auth,
    blocks,
    cookies,
    docs,
    downloads,
    events,
    limits,
    monitoring,
    notifications,
    security,
    service,
    streams,
    validation,
)
from ytdl.api.http import Route
from ytdl.apikeys import Keys, MadeKey, NewKey
from ytdl.auth import Credentials, Grant, PasswordChange, RefreshToken, Ticket, Tokens
from ytdl.blocks import Block, BlockFilter, BlockPage, NewBlock
from ytdl.checkup import Condition
from ytdl.cookies import CookieState, KeptCookies, NewCookies
from ytdl.health import Readiness
from ytdl.monitoring import CourseQuery, MetricStats, Now, StatsQuery
from ytdl.monitoring_report import MonitoringReport, MonitoringWish
from ytdl.notifications import NotificationAnswer, NotificationState, NotificationWish
from ytdl.ratelimit import State
from ytdl.readings import MetricList
from ytdl.record import Attempt, Download, Filter, NewDownload, Page
from ytdl.security import EventFilter, EventPage, Report, ReportWish, Stats, Window
from ytdl.sessions import SessionFilter, SessionPage
from ytdl.thresholds import NewThreshold, Threshold, ThresholdList
from ytdl.users import Profile, ProfileChange, Registration
from ytdl.validation import Question, Verdict

# fmt: off
ROUTES: tuple[Route, ...] = (
    # auth
    Route("POST", "/auth/register", auth.register, "anyone", body=Registration, returns=Profile, status=201,
          limit="login", problems=("forbidden", "conflict")),
    Route("POST", "/auth/login", auth.login, "anyone", body=Credentials, returns=Tokens,
          limit="login", problems=("unauthorized", "locked")),
    Route("POST", "/auth/logout", auth.logout, "user", session=True, status=204),
    Route("GET", "/auth/profile", auth.profile, "user", returns=Profile),
    Route("PUT", "/auth/profile", auth.change_profile, "user", session=True, body=ProfileChange, returns=Profile,
          problems=("conflict",)),
    Route("POST", "/auth/change-password", auth.change_password, "user", session=True, body=PasswordChange,
          limit="login", status=204, problems=("locked", "conflict")),
    Route("GET", "/auth/sessions", auth.sessions, "user", session=True, query=SessionFilter, returns=SessionPage),
    Route("DELETE", "/auth/sessions/{id}", auth.end_session, "user", session=True, status=204),
    Route("POST", "/auth/ticket", auth.issue_ticket, "user", scope="read", returns=Ticket),
    Route("GET", "/auth/api-keys", apikeys.page, "user", session=True, returns=Keys),
    Route("POST", "/auth/api-keys", apikeys.create, "user", session=True, body=NewKey, returns=MadeKey, status=201,
          problems=("conflict",)),
    Route("DELETE", "/auth/api-keys/{id}", apikeys.delete, "user", session=True, status=204),
    Route("GET", "/auth/users", accounts.page, "admin", query=AccountFilter, returns=AccountPage),
    Route("GET", "/auth/users/{id}", accounts.get, "admin", returns=Account),
    Route("PUT", "/auth/users/{id}", accounts.change, "admin", session=True, body=AccountChange, returns=Account,
          problems=("conflict",)),
    Route("DELETE", "/auth/users/{id}", accounts.delete, "admin", session=True, status=204, problems=("conflict",)),

    # security
    Route("POST", "/security/token", security.token, "anyone", body=Grant, form=True, returns=Tokens,
          limit="login", problems=("unauthorized", "forbidden", "locked")),
    Route("POST", "/security/refresh", security.refresh, "anyone", body=RefreshToken, returns=Tokens,
          limit="login", problems=("unauthorized",)),
    Route("GET", "/security/rate-limit/{policy}", limits.state, "user", returns=State),
    Route("POST", "/security/validate", validation.validate, "user", scope="read", body=Question, returns=Verdict),
    Route("GET", "/security/events", events.page, "admin", query=EventFilter, returns=EventPage),
    Route("GET", "/security/stats", events.stats, "admin", query=Window, returns=Stats),
    Route("POST", "/security/report", events.report, "admin", scope="read", body=ReportWish, returns=Report,
          other_media=("text/csv", "text/markdown")),
    Route("GET", "/security/blocks", blocks.page, "admin", query=BlockFilter, returns=BlockPage),
    Route("POST", "/security/blocks", blocks.create, "admin", body=NewBlock, returns=Block, status=201,
          problems=("conflict",)),
    Route("GET", "/security/blocks/{id}", blocks.get, "admin", returns=Block),
    Route("DELETE", "/security/blocks/{id}", blocks.lift, "admin", status=204),

    # alerts
    Route("GET", "/monitoring/alerts", alerts.page, "admin", query=AlertFilter, returns=AlertList),
    Route("GET", "/monitoring/alerts/stats", alerts.stats, "admin", query=AlertWindow, returns=AlertStats),
    Route("POST", "/monitoring/alerts/acknowledge", alerts.acknowledge, "admin", body=Acknowledge,
          returns=Acknowledgement, problems=("not_found", "conflict")),
    Route("DELETE", "/monitoring/alerts/acknowledge/{fingerprint}", alerts.withdraw, "admin", status=204,
          problems=("conflict",)),

    # downloads
    Route("POST", "/downloads", downloads.create, "user", body=NewDownload, returns=Download, status=202,
          limit="create", also={200: Download}, problems=("conflict",), headers={
              "Idempotency-Key": "With the same key and body within 24 hours, the first answer comes again."}),
    Route("GET", "/downloads", downloads.page, "user", query=Filter, returns=Page),
    Route("GET", "/downloads/events", streams.events_of_all, "user", ticket=True, stream=True, head=False,
          media="text/event-stream"),
    Route("GET", "/downloads/{id}", downloads.get, "user", returns=Download),
    Route("DELETE", "/downloads/{id}", downloads.delete, "user", status=204),
    Route("POST", "/downloads/{id}/cancel", downloads.cancel, "user", returns=Download, status=202,
          problems=("conflict",)),
    Route("POST", "/downloads/{id}/retry", downloads.retry, "user", returns=Download, status=202,
          limit="create", problems=("conflict",)),
    Route("GET", "/downloads/{id}/file", downloads.file, "user", ticket=True, stream=True,
          media="video/*", other_media=("audio/*",), also={206: None, 304: None}, headers={
              "Range": "One range of bytes; several, or none that can be read, mean the whole file.",
              "If-Range": "An ETag; for another file than that one the range does not count.",
              "If-None-Match": "An ETag; for the same file the answer is 304."},
          problems=("conflict", "gone", "range_not_satisfiable")),
    Route("GET", "/downloads/{id}/logs", downloads.attempts, "user", returns=list[Attempt]),

    # cookies: not below /auth, where those would be looked for that a browser signs in with
    Route("GET", "/cookies", cookies.state, "user", returns=CookieState, problems=("not_found",)),
    Route("PUT", "/cookies", cookies.put, "user", body=NewCookies, returns=KeptCookies),
    Route("DELETE", "/cookies", cookies.delete, "user", status=204, problems=("not_found",)),

    # streams
    Route("GET", "/downloads/{id}/events", streams.events_of_one, "user", ticket=True, stream=True,
          head=False, media="text/event-stream"),
    Route("GET", "/downloads/{id}/ws", streams.socket_of_one, "user", ticket=True, stream=True, head=False,
          status=101, problems=("malformed",)),
    Route("GET", "/ws", streams.socket_of_all, "user", ticket=True, stream=True, head=False, status=101,
          problems=("malformed",)),

    # monitoring
    Route("GET", "/monitoring/metrics", monitoring.metrics, "admin", returns=MetricList),
    Route("GET", "/monitoring/metrics/{metric_name}", monitoring.metric, "admin", query=CourseQuery, returns=Now),
    Route("GET", "/monitoring/metrics/{metric_name}/stats", monitoring.stats, "admin", query=StatsQuery,
          returns=MetricStats),
    Route("GET", "/monitoring/health", monitoring.health, "user", returns=Condition),
    Route("POST", "/monitoring/health/check", monitoring.check, "admin", returns=Condition),
    Route("GET", "/monitoring/thresholds", monitoring.thresholds, "admin", returns=ThresholdList),
    Route("POST", "/monitoring/thresholds/{metric_name}", monitoring.set_threshold, "admin", body=NewThreshold,
          returns=Threshold),
    Route("POST", "/monitoring/report", monitoring.report, "admin", scope="read", body=MonitoringWish,
          returns=MonitoringReport, other_media=("text/csv", "text/markdown")),
    Route("GET", "/monitoring/config/notifications", notifications.state, "admin", returns=NotificationState),
    Route("POST", "/monitoring/config/notifications", notifications.change, "admin", body=NotificationWish,
          returns=NotificationAnswer, problems=("conflict",)),
    Route("POST", "/monitoring/receivers/sms/{channel}", notifications.receive, "anyone", status=204,
          problems=("unauthorized", "malformed", "too_large", "unsupported_media_type", "invalid")),

    # service
    Route("GET", "/healthz", service.healthz, "anyone", returns=service.Alive, limit=None, plain=True),
    Route("GET", "/readyz", service.readyz, "anyone", returns=Readiness, also={503: Readiness}, limit=None,
          plain=True),
    Route("GET", "/metrics", service.prometheus, "anyone", media="text/plain", limit=None, plain=True),

    # docs
    Route("GET", "/", docs.index, "anyone", media="text/html", plain=True),
    Route("GET", "/docs", docs.swagger, "anyone", media="text/html", plain=True),
    Route("GET", "/api/docs", docs.api_docs, "anyone", media="text/html", plain=True),
    Route("GET", "/redoc", docs.redoc, "anyone", media="text/html", plain=True),
    Route("GET", "/openapi.json", docs.document, "anyone", returns=dict[str, Any], plain=True),
    Route("GET", "/static/{name}", docs.asset, "anyone", media="text/css",
          other_media=("text/javascript", "image/svg+xml"), plain=True),
)
