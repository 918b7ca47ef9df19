"""The application: everything that is made at start, in order of need, with its end right beside its
beginning.

Straight-line on purpose: a step uses what earlier ones made, and the exit stack undoes them in reverse.
"""

import asyncio
import contextlib
import dataclasses
import functools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from aiohttp import web

from ytdl import __version__, audit, crypto, embedded, errors, sealed, tracing, users, vault
from ytdl import db as database
from ytdl.accounts import Accounts
from ytdl.acknowledgements import Acknowledgements
from ytdl.alert_history import AlertHistory
from ytdl.alertmanager import Alertmanager
from ytdl.alerts import Alerts
from ytdl.api import http, middleware, openapi
from ytdl.api.keys import (
    ACCOUNTS,
    ACKNOWLEDGEMENTS,
    ALERTMANAGER,
    ALERTS,
    API_KEYS,
    AUTH,
    BLOCKS,
    CHECKUP,
    CONFIG,
    COOKIES,
    DB,
    DENIALS,
    DOWNLOADS,
    EVENTS,
    FIRST_PASSWORD,
    HASHER,
    HEADERS,
    HEALTH,
    KV,
    LIMITER,
    MONITORING,
    NOTIFICATIONS,
    OFFENCES,
    OPENAPI,
    REPORTER,
    TEXTS,
    THRESHOLDS,
    VAULT,
    WORKER,
)
from ytdl.apikeys import ApiKeys
from ytdl.attempts import Attempts
from ytdl.auth import Auth
from ytdl.blocks import Blocks
from ytdl.chain import Linker
from ytdl.checkup import Checkup
from ytdl.collectors import tell_version
from ytdl.config import Config, proxies_of, scrape_seconds
from ytdl.cookies import Cookies
from ytdl.crypto import Hasher
from ytdl.denials import Denials
from ytdl.disk import Disk
from ytdl.downloads import Downloads
from ytdl.egress import Egress, lanes_of
from ytdl.events import Events
from ytdl.fetcher import Fetcher, Settings, find_ffmpeg
from ytdl.health import Health
from ytdl.janitor import Janitor
from ytdl.kv import KV as Redis
from ytdl.monitoring import Monitoring
from ytdl.monitoring_report import Reporter
from ytdl.notifications import Notifications
from ytdl.offences import Offences
from ytdl.outbound import Outbound
from ytdl.prometheus import Prometheus
from ytdl.queue import Queue
from ytdl.ratelimit import Limiter, policies_of
from ytdl.routes import ROUTES
from ytdl.sampler import Sampler, collectors
from ytdl.scores import Scores
from ytdl.sms import Texts
from ytdl.storage import Storage
from ytdl.thresholds import Thresholds
from ytdl.worker import Worker

log = logging.getLogger("ytdl.app")
# How long a stop waits to say so in the audit trail.
LAST_WORDS_SECONDS = 2.0


async def new(config: Config, *, hasher: Hasher | None = None) -> web.Application:
    """Starting the application starts everything; ending it ends everything, embedded servers included.

    `hasher` is for tests, which want passwords to cost little.
    """
    app = http.application()
    app[CONFIG] = config
    app[HEADERS] = middleware.headers_for(config.public_url)
    app[OPENAPI] = _document()
    app[HASHER] = hasher or Hasher()
    app.cleanup_ctx.append(_live)
    app.on_shutdown.append(_end_streams)
    http.register(app, ROUTES)
    return app


@functools.cache
def _document() -> bytes:
    """The same for all applications of a process; making it takes some 50 ms."""
    return openapi.encode(ROUTES)


async def drain(app: web.Application) -> None:
    """First step of a stop, while requests are still answered: not ready any more, no new jobs, running ones end."""
    app[HEALTH].draining = True
    await app[WORKER].drain()


async def _end_streams(app: web.Application) -> None:
    """Streams would hold the server open for ever."""
    app[HEALTH].draining = True
    app[EVENTS].close_streams()


async def _live(app: web.Application) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        await _start(app, stack)
        yield


async def _start(app: web.Application, stack: AsyncExitStack) -> None:
    config = app[CONFIG]
    if config.otel_exporter_otlp_endpoint:
        await asyncio.to_thread(
            tracing.start, config.otel_exporter_otlp_endpoint, config.otel_traces_sample_ratio, __version__
        )
        stack.push_async_callback(asyncio.to_thread, tracing.stop)
    alone = not config.database_url
    config = await _servers(config, stack)

    await database.until_up(config.database_url, seconds=30)
    await database.migrate(config.database_url)
    db = app[DB] = database.DB(config.database_url, size=config.database_pool_size)
    await db.open()
    stack.push_async_callback(db.close)
    linker = Linker(db)
    await linker.start()
    stack.push_async_callback(linker.stop)
    kv = app[KV] = Redis(config.redis_url, config.redis_prefix)
    stack.push_async_callback(kv.close)

    app[VAULT] = await asyncio.to_thread(vault.of, config)
    await sealed.warn_of_lost_keys(db, app[VAULT])

    alertmanager = app[ALERTMANAGER] = Alertmanager(config.alertmanager_url)
    stack.push_async_callback(alertmanager.close)
    app[ALERTS] = Alerts(db, alertmanager)
    acknowledgements = app[ACKNOWLEDGEMENTS] = Acknowledgements(db, alertmanager)
    history = AlertHistory(db, alertmanager, acknowledgements, config.alert_check_interval)
    await history.start()
    stack.push_async_callback(history.stop)
    prometheus = Prometheus(config.prometheus_url)
    stack.push_async_callback(prometheus.close)
    app[MONITORING] = Monitoring(prometheus, interval=scrape_seconds(config))
    app[REPORTER] = Reporter(prometheus, interval=scrape_seconds(config), grafana=config.grafana_url)

    outbound = await stack.enter_async_context(Outbound(config))
    notifications = app[NOTIFICATIONS] = Notifications(config, db, app[VAULT], alertmanager, outbound)
    texts = app[TEXTS] = Texts(config, db, app[VAULT], outbound)
    await notifications.start()
    stack.push_async_callback(notifications.stop)
    await texts.start()
    stack.push_async_callback(texts.stop)

    limiter = app[LIMITER] = Limiter(policies_of(config), kv, db)
    stack.push_async_callback(limiter.close)
    denials = app[DENIALS] = Denials(db, "authz_fail")
    stack.push_async_callback(denials.close)

    storage = Storage(config.data_dir)
    await asyncio.to_thread(storage.open)
    events = app[EVENTS] = Events(kv)
    await events.start()
    stack.push_async_callback(events.stop)

    thresholds = app[THRESHOLDS] = Thresholds(db, events, interval=config.metrics_collection_interval)
    await thresholds.start()
    stack.push_async_callback(thresholds.stop)

    scores = Scores(kv, config.block_score)
    blocks = app[BLOCKS] = Blocks(db, events, scores, config)
    offences = app[OFFENCES] = Offences(blocks, scores)
    for each in (blocks, offences):
        await each.start()
        stack.push_async_callback(each.stop)

    auth = app[AUTH] = Auth(db, events, config, await asyncio.to_thread(_key, config), hasher=app[HASHER])
    stack.push_async_callback(auth.close)
    app[API_KEYS] = ApiKeys(db, events)
    app[FIRST_PASSWORD] = await users.first_admin(
        db, auth.hasher, username=config.admin_username, password=config.admin_password
    )

    fetcher = Fetcher(_fetcher_settings(config))
    if config.download_concurrency:
        await fetcher.start()
        stack.push_async_callback(fetcher.stop)
    tell_version(fetcher.tools)
    queue = Queue(
        db,
        kv,
        lease_seconds=config.download_lease_seconds,
        user_cap=config.download_user_concurrency,
        base_backoff=config.download_backoff_seconds,
    )
    if alone:
        # The data folder is locked, so whoever held a lease is dead: no need to wait for it to run out.
        await queue.disown()
    disk = Disk(db, queue, storage, events, watermark=config.download_min_free_bytes)
    app[DOWNLOADS] = Downloads(db, queue, events, storage, disk, max_attempts=config.download_max_attempts)
    app[ACCOUNTS] = Accounts(db, auth, app[DOWNLOADS], queue)
    egress = Egress(
        db,
        lanes_of(proxies_of(config.outbound_proxy), cookies=bool(config.ytdlp_cookies_file)),
        starts_per_minute=config.egress_starts_per_minute,
        burst=config.egress_burst,
        pause_seconds=config.egress_pause_seconds,
    )
    if config.download_concurrency:
        await egress.open()
    cookies = app[COOKIES] = Cookies(db, app[VAULT])
    attempts = Attempts(db, queue, events)
    worker = app[WORKER] = Worker(config, queue, attempts, egress, fetcher, storage, disk, cookies, events)
    await worker.start()
    stack.push_async_callback(worker.drain)
    runs = fetcher if config.download_concurrency else None
    health = app[HEALTH] = Health(config, db, kv, storage, runs)
    stack.push_async_callback(health.close)
    app[CHECKUP] = Checkup(health, db, kv, storage, runs, prometheus, alertmanager)
    collecting = collectors(config, db, kv, disk, cookies, fetcher, health)
    for part in (Janitor(db, storage), Sampler(collecting, seconds=config.metrics_collection_interval)):
        await part.start()
        stack.push_async_callback(part.stop)
    await audit.record(db, "sys_startup", version=__version__)
    stack.push_async_callback(_record_end, db)


async def _record_end(db: database.DB) -> None:
    """A stop does not wait for a database that is away; its log line is missing then as well."""
    with contextlib.suppress(errors.Unavailable, TimeoutError):
        async with asyncio.timeout(LAST_WORDS_SECONDS):
            await audit.record(db, "sys_shutdown")


async def _servers(config: Config, stack: AsyncExitStack) -> Config:
    """The settings with the URLs of embedded servers where none were given; the data folder is this process's then."""
    if config.database_url and config.redis_url:
        return config
    claim = await embedded.claim(config.data_dir)
    stack.callback(claim.release)
    if not config.database_url and not config.redis_url:
        postgres, redis = await embedded.start_both(claim)
        stack.push_async_callback(redis.stop)
        stack.push_async_callback(postgres.stop)
        return dataclasses.replace(config, database_url=postgres.url, redis_url=redis.url)
    server = await (embedded.start_redis(claim) if config.database_url else embedded.start_postgres(claim))
    stack.push_async_callback(server.stop)
    return dataclasses.replace(
        config, database_url=config.database_url or server.url, redis_url=config.redis_url or server.url
    )


def _key(config: Config) -> bytes:
    if config.jwt_secret_key:
        return config.jwt_secret_key.encode()
    return crypto.signing_key(config.data_dir / "secrets" / "jwt.key")


def _fetcher_settings(config: Config) -> Settings:
    return Settings(
        runtime_dir=config.data_dir.resolve() / "runtime",
        ffmpeg=find_ffmpeg(),
        # A job is told which one; without that it must not go out past all of them.
        proxy=next(iter(proxies_of(config.outbound_proxy)), None),
        ca_file=config.outbound_ca_file or None,
        allowed_extractors=config.allowed_extractors,
        allowed_networks=config.allowed_private_networks,
        extractor_args=config.ytdlp_extractor_args,
        cookies_file=config.ytdlp_cookies_file or None,
        stall_seconds=config.download_stall_seconds,
        total_seconds=config.download_timeout_seconds,
        file_bytes=config.download_max_bytes,
    )
