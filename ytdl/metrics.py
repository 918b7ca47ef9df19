"""Every metric of the service, declared once, in sections by feature, mostly a line each.

Names are `ytdl_<feature>_<thing>_<unit>[_total]`. Label values come from closed lists. Where the list stands here its
series are made here, so a rate works from the first failure on. Others are made by their feature, at its start or with
what they count first, as the statuses of `http_requests`: no rate sees that, so failures are not to be counted so only.
Never a label: user, URL, video, raw path, raw error text. One catalogue (and not metrics beside their code) because
dashboards, rules and load thresholds are compared with it.
"""

from collections.abc import Iterable
from itertools import product
from typing import NamedTuple, TypeVar

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)

from ytdl.reasons import REASONS

# When a series was made would be a second series beside every counter and histogram, which nobody asks for.
disable_created_metrics()  # type: ignore[no-untyped-call]
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

# What an objective speaks of is an edge: 0.2 s to answer, 60 s to start. Edges are few, as each is a series of every
# route or query file.
HTTP_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SQL_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.25, 1.0, 5.0)
JOB_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 180.0, 600.0, 1800.0, 3600.0)
LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
WAIT_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 900.0)
STAGE_SECONDS = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
FILE_BYTES = tuple(2.0**n for n in (20, 22, 24, 26, 28, 30, 32, 34))

STATUSES = ("queued", "downloading", "processing", "uploading", "completed", "failed", "cancelled", "expired")
JOB_STATES = ("queued", "running", "retry_wait")


M = TypeVar("M", Counter, Gauge, Histogram)


class Declared(NamedTuple):
    """A line of the catalogue; `labels` has the values of those whose list is closed here."""

    name: str
    type: str
    help: str
    labels: dict[str, tuple[str, ...]]


CATALOGUE: list[Declared] = []


def _counter(name: str, help: str, **labels: Iterable[str]) -> Counter:
    return _listed(Counter(name, help, _names(labels), registry=REGISTRY), "counter", name, help, labels)


def _gauge(name: str, help: str, **labels: Iterable[str]) -> Gauge:
    return _listed(Gauge(name, help, _names(labels), registry=REGISTRY), "gauge", name, help, labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...], **labels: Iterable[str]) -> Histogram:
    metric = Histogram(name, help, _names(labels), buckets=buckets, registry=REGISTRY)
    return _listed(metric, "histogram", name, help, labels)


def _names(labels: Iterable[str]) -> tuple[str, ...]:
    """Without the underscore of one that is a word of Python's."""
    return tuple(label.strip("_") for label in labels)


def _listed(metric: M, type: str, name: str, help: str, labels: dict[str, Iterable[str]]) -> M:
    """Takes it into the catalogue, and makes the series whose labels are known."""
    known = dict(zip(_names(labels), map(tuple, labels.values()), strict=True))
    CATALOGUE.append(Declared(name, type, help, known))
    for values in product(*known.values()) if known else ():
        metric.labels(*values)
    return metric


# fmt: off
# build
build_info = _gauge("ytdl_build_info", "1, with the service's and yt-dlp's versions as labels.", version=(), ytdlp=())

# http: `route` is the template in the route table, `unmatched` where none fits.
http_requests = _counter("ytdl_http_requests_total", "Requests answered.", method=(), route=(), status=())
http_failures = _counter("ytdl_http_failures_total", "Requests answered with 5xx; each route has its series from the start.", route=())
http_request_seconds = _histogram("ytdl_http_request_seconds", "Time to answer; streams and files are not counted.", HTTP_SECONDS, route=())
http_in_flight = _gauge("ytdl_http_in_flight", "Requests being answered.")
http_too_slow = _counter("ytdl_http_too_slow_total", "Connections closed because the client sent or took too little, by what was under way.", what=("head", "body", "answer", "file"))
http_errors = _counter("ytdl_http_errors_total", "Problems answered, by code.", code=(
    "malformed", "invalid", "unauthorized", "blocked", "forbidden", "not_found", "method_not_allowed", "conflict", "gone", "locked",
    "rate_limited", "too_large", "unsupported_media_type", "range_not_satisfiable", "unavailable", "internal",
))

# auth
AUTH_OUTCOMES = ("ok", "again", "wrong", "inactive", "expired", "reused", "locked", "busy")
auth_logins = _counter("ytdl_auth_logins_total", "Sign-ins tried.", outcome=AUTH_OUTCOMES)
auth_refreshes = _counter("ytdl_auth_refreshes_total", "Refresh tokens presented.", outcome=AUTH_OUTCOMES)
auth_registrations = _counter("ytdl_auth_registrations_total", "Accounts made.")
auth_sessions_open = _gauge("ytdl_auth_sessions_open", "Sessions that have neither ended nor been revoked.")
auth_hashes_refused = _counter("ytdl_auth_hashes_refused_total", "Passwords not looked at because too many were waiting.")

# ratelimit: where it was counted, in Redis or in this process alone.
LIMIT_POLICIES = ("api", "keys", "create", "login", "url", "address", "elsewhere")
COUNTED_WHERE = ("redis", "process")
ratelimit_leased = _counter("ytdl_ratelimit_leased_total", "Requests allowed, one by one or in blocks.", where=COUNTED_WHERE)
ratelimit_forgotten = _counter("ytdl_ratelimit_forgotten_total", "Requests allowed that nobody made before their block ended.")
ratelimit_denied = _counter("ytdl_ratelimit_denied_total", "Requests refused, by the policies that had nothing left.", policy=LIMIT_POLICIES, where=COUNTED_WHERE)
ratelimit_degraded = _gauge("ytdl_ratelimit_degraded", "1 while this process counts by itself because Redis does not answer.")

# access
access_denied = _counter("ytdl_access_denied_total", "Requests refused to somebody signed in, by what was missing.", reason=("role", "session", "scope"))

# audit: types are those of `audit.TYPES`.
audit_events = _counter("ytdl_audit_events_total", "Events written to the audit trail.", type=())
audit_pending = _gauge("ytdl_audit_pending_events", "Events that have no link in the audit chain yet, counted up to 10,000.")
audit_chain = _gauge("ytdl_audit_chain_length", "Links of the audit chain.")
audit_sealed = _gauge("ytdl_audit_sealed_timestamp_seconds", "When this process last saw the audit chain grow.")
audit_breaks = _counter("ytdl_audit_breaks_total", "Times this process found links of the audit chain, or events waiting for one, gone or changed.")

# vault
vault_unopened = _counter("ytdl_vault_unopened_total", "Kept secrets that could not be opened.", reason=("no_key", "damaged"))

# blocks: sorts of offences are those of `offences.POINTS`, and reasons are those or `manual`.
blocks_active = _gauge("ytdl_blocks_active", "Networks that this process refuses.")
blocks_created = _counter("ytdl_blocks_created_total", "Blocks that this process made.", kind=(), reason=())
blocks_refused = _counter("ytdl_blocks_refused_total", "Requests refused because their address is blocked.")
blocks_offences = _counter("ytdl_blocks_offences_total", "What addresses are blocked for, as it came.", offence=())
blocks_scored = _counter("ytdl_blocks_scored_total", "Offences added up: in Redis, in this process without it, or not at all for want of room.", outcome=("shared", "process", "dropped", "full"))

# users
ROLES = ("user", "admin")
users_accounts = _gauge("ytdl_users_accounts", "Accounts, by role and by whether they may sign in.", role=ROLES, active=("yes", "no"))

# downloads
downloads_created = _counter("ytdl_downloads_created_total", "Downloads accepted.")
downloads_finished = _counter("ytdl_downloads_finished_total", "Downloads that came to an end.", status=("completed", "failed", "cancelled"))
downloads_failed = _counter("ytdl_downloads_failed_total", "Attempts that failed, by reason.", reason=REASONS)
downloads_given_up = _counter("ytdl_downloads_given_up_total", "Downloads that failed in the end although their failure may pass: all tries were used up, or worker after worker was lost with them.", why=("tries", "crashes"))
downloads_blamed = _counter("ytdl_downloads_blamed_total", "Downloads that failed in the end, by whose fault that was: the user asked for what cannot be had, or the site, the way to it or this service failed.", fault=("user", "service"))
downloads_seconds = _histogram("ytdl_downloads_seconds", "From acceptance to completion.", JOB_SECONDS)
downloads_file_bytes = _histogram("ytdl_downloads_file_bytes", "Size of delivered files.", FILE_BYTES)
downloads_fetched_bytes = _counter("ytdl_downloads_fetched_bytes_total", "Bytes fetched from upstream by finished attempts.")
downloads_state = _gauge("ytdl_downloads_state", "Downloads by status.", status=STATUSES)

# queue
TRANSITIONS = ("submit", "claim", "complete", "fail", "retry", "yield", "defer", "reap", "cancel")
queue_transitions = _counter("ytdl_queue_transitions_total", "Committed changes of a job's state.", op=TRANSITIONS)
queue_fenced = _counter("ytdl_queue_fenced_total", "Writes refused because their lease was lost.", op=("beat", "complete", "fail", "yield", "defer"))
queue_jobs = _gauge("ytdl_queue_jobs", "Jobs that have not ended, by state.", state=JOB_STATES)
queue_oldest_ready_seconds = _gauge("ytdl_queue_oldest_ready_seconds", "Age of the oldest job that is due and not taken.")
queue_oldest_startable_seconds = _gauge("ytdl_queue_oldest_startable_seconds", "How long the oldest job has been due, not taken, and not one too many at once of its user.")
queue_rebuilds = _counter("ytdl_queue_rebuilds_total", "Times the Redis index was made anew.")
queue_ensured = _counter("ytdl_queue_ensured_total", "Jobs that the reconciler put back into the index.")
queue_wait_seconds = _histogram("ytdl_queue_wait_seconds", "From when a job was due, and its user ran fewer than may run at once, until it was claimed.", WAIT_SECONDS)
queue_stale = _counter("ytdl_queue_stale_total", "Members of the index that PostgreSQL refused at claim.")

# worker
worker_slots = _gauge("ytdl_worker_slots", "Jobs this process may run at once.")
worker_running = _gauge("ytdl_worker_running", "Jobs this process runs now.")
WORKER_LOOPS = ("claim", "beat", "report", "record", "reap", "reconcile", "disk", "sweep", "alerts", "sample", "host", "instance", "needs", "postgres", "redis", "contents", "listen", "lanes", "blocks", "offences", "link", "notifications", "texts", "thresholds")
worker_loop_errors = _counter("ytdl_worker_loop_errors_total", "Rounds of a background loop that failed.", loop=WORKER_LOOPS)
worker_loop_last_success = _gauge("ytdl_worker_loop_last_success_timestamp_seconds", "When a background loop last did its round, or began; 0 while it does not run here.", loop=WORKER_LOOPS)
worker_loop_interval = _gauge("ytdl_worker_loop_interval_seconds", "How long a background loop waits from one round to the next; 0 where it goes on at once or with another.", loop=WORKER_LOOPS)
worker_collection_seconds = _gauge("ytdl_worker_collection_seconds", "How long the last refresh of the gauges took.")
worker_swept = _counter("ytdl_worker_swept_total", "Leftover folders and files removed.", what=("work", "media"))

# egress: a lane is a proxy and the cookies that go with it; their names are made from the settings at start.
LANE_STATES = ("open", "paused", "probing")
egress_lane_state = _gauge("ytdl_egress_lane_state", "1 for the state that a lane is in.", lane=(), state=LANE_STATES)
egress_paused_until = _gauge("ytdl_egress_paused_until_timestamp_seconds", "When a paused lane is tried again; 0 while it is not paused.", lane=())
egress_paused_seconds = _counter("ytdl_egress_paused_seconds_total", "Time that a lane was not open, as this process saw it.", lane=())
egress_pauses = _counter("ytdl_egress_pauses_total", "Times this process paused a lane, by what the site had answered.", lane=(), reason=())
egress_probes = _counter("ytdl_egress_probes_total", "Attempts that a lane's opening depended on, by how they ended.", lane=(), outcome=())
egress_starts = _counter("ytdl_egress_starts_total", "Attempts started on a lane.", lane=())
egress_tokens = _gauge("ytdl_egress_tokens", "Attempts that may start on a lane at once.", lane=())

# cookies: those that users have uploaded, and the operator's file.
COOKIE_STATUSES = ("unproven", "valid", "expired", "refused", "unreadable")
cookies_state = _gauge("ytdl_cookies_state", "Users whose uploaded cookies are in a state.", status=COOKIE_STATUSES)
cookies_oldest_uploaded = _gauge("ytdl_cookies_oldest_uploaded_timestamp_seconds", "When the oldest of those that may be used were uploaded; 0 when there are none.")
cookies_first_expiry = _gauge("ytdl_cookies_first_expiry_timestamp_seconds", "When the first of those that may be used expire; 0 when none are known to.")
cookies_used = _counter("ytdl_cookies_used_total", "Attempts that asked the site as their user, by whether it took the cookies.", outcome=("accepted", "refused", "unclear"))
cookies_file_modified = _gauge("ytdl_cookies_file_modified_timestamp_seconds", "When the file that YTDLP_COOKIES_FILE names was changed last; 0 without one.")

# fetcher
fetcher_restarts = _counter("ytdl_fetcher_restarts_total", "Times the fork server was started again.")
fetcher_ready = _gauge("ytdl_fetcher_ready", "1 while the fork server takes jobs.")
fetcher_javascript_ready = _gauge("ytdl_fetcher_javascript_ready", "1 if the fork server has found a JavaScript runtime that yt-dlp can use; 0 in an API only.")
fetcher_ytdlp_released = _gauge("ytdl_fetcher_ytdlp_released_timestamp_seconds", "When the version of yt-dlp in use was released; 0 until the fork server has said, and in an API only.")
STAGES = ("extracting", "downloading", "processing", "verifying")
fetcher_deadlines = _counter("ytdl_fetcher_deadlines_total", "Attempts ended because nothing moved, or for taking too long, by where they were.", stage=STAGES)
fetcher_stage_seconds = _histogram("ytdl_fetcher_stage_seconds", "Time in a stage that came to its end, waiting for room or cookies not counted.", STAGE_SECONDS, stage=STAGES)
fetcher_cpu_seconds = _counter("ytdl_fetcher_cpu_seconds_total", "CPU time of finished child processes.")
fetcher_peak_memory_bytes = _histogram("ytdl_fetcher_peak_memory_bytes", "Peak memory of a child process.", tuple(2.0**n * 2**20 for n in range(4, 11)))

# monitoring: what is asked of the operator's own servers.
monitoring_requests = _counter("ytdl_monitoring_requests_total", "Requests made to Prometheus and Alertmanager.", server=("prometheus", "alertmanager"), outcome=("ok", "refused", "unreachable", "timeout"))

# threshold: what an admin has set; only that is here.
threshold_value = _gauge("ytdl_threshold_value", "The value above which a figure of the service is bad, and for how many seconds it must be.", metric=(), severity=(), hold=())

# alerts: what Alertmanager tells; nothing while it cannot be asked. Names are those of the operator's rules, 100 at most.
alerts_active = _gauge("ytdl_alerts_active", "Alerts that fire, by whether somebody has taken them up; inhibited ones are told of by another.", severity=("critical", "warning", "info", "other"), state=("unacknowledged", "acknowledged", "inhibited"))
alerts_unacknowledged = _gauge("ytdl_alerts_unacknowledged_timestamp_seconds", "Since when the first alert of a name waits for somebody to take it up.", alertname=(), severity=())

# notifications: what this service sends itself; Alertmanager counts the rest.
notifications_sent = _counter("ytdl_notifications_sent_total", "Messages handed to a provider.", channel=("sms",), outcome=("ok", "refused", "unreachable"))
notifications_rendered = _gauge("ytdl_notifications_rendered_timestamp_seconds", "When Alertmanager's configuration was last found or made to be what admins have set.")
notifications_reloads = _counter("ytdl_notifications_reloads_total", "Times that Alertmanager was told to read its configuration, or that this was withheld as the database has none any more; declined is what an admin wanted and was told of at once.", outcome=("ok", "declined", "refused", "unreachable", "elsewhere", "withheld"))

# tracing
tracing_spans = _counter("ytdl_tracing_spans_total", "Steps of traces told to the collector, or given up for want of room or of its answer.", outcome=("exported", "dropped"))

# streams
streams_open = _gauge("ytdl_streams_open", "Open progress streams.", kind=("sse", "websocket"))
streams_dropped = _counter("ytdl_streams_dropped_total", "Events dropped for slow readers.")
events_published = _counter("ytdl_events_published_total", "Events published.", outcome=("ok", "local"))

# db: features are the files in sql/queries. What is under server is PostgreSQL's own account of itself.
db_query_seconds = _histogram("ytdl_db_query_seconds", "Time of a query, waiting for a connection not counted.", SQL_SECONDS, feature=())
db_queries = _counter("ytdl_db_queries_total", "Queries answered.", query=())
db_query_busy_seconds = _counter("ytdl_db_query_busy_seconds_total", "Time of those queries together.", query=())
db_errors = _counter("ytdl_db_errors_total", "Queries that failed.", kind=("unavailable", "conflict", "other"))
db_pool = _gauge("ytdl_db_pool_connections", "Connections of the pool, and requests that wait for one.", state=("size", "available", "waiting"))
db_pool_wait_seconds = _histogram("ytdl_db_pool_wait_seconds", "How long a connection of the pool was waited for.", SQL_SECONDS)
db_server_connections = _gauge("ytdl_db_server_connections", "Connections to the server, of all databases.")
db_server_max_connections = _gauge("ytdl_db_server_max_connections", "Connections that the server takes at most.")
db_server_size_bytes = _gauge("ytdl_db_server_size_bytes", "Size of the database.")
db_server_transactions = _counter("ytdl_db_server_transactions_total", "Transactions of the database since this process first looked.", outcome=("committed", "rolled_back"))
db_server_deadlocks = _counter("ytdl_db_server_deadlocks_total", "Deadlocks in the database since this process first looked.")
db_server_blocks = _counter("ytdl_db_server_blocks_total", "Blocks that the database read since this process first looked; the system's cache counts as disk.", from_=("cache", "disk"))
db_server_archive_failures = _counter("ytdl_db_server_archive_failures_total", "Times that a WAL file could not be archived since this process first looked.")
db_server_longest_transaction = _gauge("ytdl_db_server_longest_transaction_seconds", "Age of the oldest open transaction that this role may see.")

# kv: what is under server is Redis' own account of itself.
kv_call_seconds = _histogram("ytdl_kv_call_seconds", "Time of a Redis call.", SQL_SECONDS, call=())
kv_errors = _counter("ytdl_kv_errors_total", "Redis calls that failed.")
kv_pool = _gauge("ytdl_kv_pool_connections", "Connections of the pool.", state=("in_use", "idle"))
kv_server_memory_bytes = _gauge("ytdl_kv_server_memory_bytes", "Memory that the server uses.")
kv_server_max_memory_bytes = _gauge("ytdl_kv_server_max_memory_bytes", "Memory that it may use; 0 without a limit.")
kv_server_evicted_keys = _counter("ytdl_kv_server_evicted_keys_total", "Keys that it gave up for want of memory since this process first looked.")
kv_server_clients = _gauge("ytdl_kv_server_clients", "Connections to the server.")
kv_server_persistence_ok = _gauge("ytdl_kv_server_persistence_ok", "1 unless the last write to the disk failed.")
kv_server_keys = _gauge("ytdl_kv_server_keys", "Keys of all its databases.")
kv_server_commands = _counter("ytdl_kv_server_commands_total", "Commands that it ran since this process first looked.")

# storage: finished files that their users can still get.
storage_kept_files = _gauge("ytdl_storage_kept_files", "Finished files that are kept.")
storage_kept_bytes = _gauge("ytdl_storage_kept_bytes", "Their size.")

# system: the machine, or the control group (container) where that sets a lower limit.
system_cpu_usage_ratio = _gauge("ytdl_system_cpu_usage_ratio", "Part of the processors' time in use since the refresh before, 0 to 1.")
system_memory_total_bytes = _gauge("ytdl_system_memory_total_bytes", "Memory.")
system_memory_available_bytes = _gauge("ytdl_system_memory_available_bytes", "Memory that can be had without swapping.")
system_network_bytes = _counter("ytdl_system_network_bytes_total", "Bytes over the network interfaces since this process first looked; loopback is not counted.", direction=("received", "sent"))
system_load_average = _gauge("ytdl_system_load_average", "Processes that ran or waited to, on the average of the last minute.")

# instance: this process and those that it started; embedded servers are not counted.
PARTS = ("service", "fork_server", "jobs")
instance_memory_bytes = _gauge("ytdl_instance_memory_bytes", "Memory in use (PSS: what processes share counts once).", part=PARTS)
instance_cpu_seconds = _counter("ytdl_instance_cpu_seconds_total", "Processor time, that of ended processes included.", part=PARTS)
instance_processes = _gauge("ytdl_instance_processes", "Processes.", part=PARTS)
instance_memory_limit_bytes = _gauge("ytdl_instance_memory_limit_bytes", "What their memory should stay below: 512 MiB, or the control group's limit where that is lower.")

# loop, disk, health
loop_lag_seconds = _histogram("ytdl_loop_lag_seconds", "How late the event loop woke a sleeper.", LAG_SECONDS)
disk_total_bytes = _gauge("ytdl_disk_total_bytes", "Size of the disk where downloads are written.")
disk_free_bytes = _gauge("ytdl_disk_free_bytes", "Free space there.")
disk_watermark_bytes = _gauge("ytdl_disk_watermark_bytes", "Free space below which nothing is leased or begun.")
disk_reserved_bytes = _gauge("ytdl_disk_reserved_bytes", "What running downloads of all processes may yet write, as a process with a worker last saw it.")
disk_deferred = _counter("ytdl_disk_deferred_total", "Attempts put off for want of room, before their transfer or when a write failed.", when=("admit", "write"))
health_ready = _gauge("ytdl_health_ready", "1 while what the service needs is there; what only downloads need is not looked at by an API only.", check=())
