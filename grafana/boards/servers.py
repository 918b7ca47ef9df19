"""PostgreSQL and Redis: whether they answer, how fast, and what of theirs can run out."""

from grafana.board import Board, Row
from grafana.panels import FULL, Prom, lines, number, table_of

YES = {0: ("no", "red"), 1: ("yes", "green")}
CALL_SECONDS = "sum by (le, call) (rate(ytdl_kv_call_seconds_bucket[$__rate_interval]))"
QUERY_SECONDS = "sum by (le, feature) (rate(ytdl_db_query_seconds_bucket[$__rate_interval]))"

NOW = Row("Now", [
    number(
        "Checks that fail", "What the service needs and has not, on any instance.", "0.",
        "the lines below name them; each instance asks again every few seconds.",
        Prom("count(ytdl_health_ready == 0) or vector(0)"), unit="none", bad=(1,), least=0,
        runbook=("database#PostgresDown", "redis#RedisDown"),
    ),
    number(
        "Requests that wait for a connection", "Requests that wait for a connection of the pool to PostgreSQL.", "0.",
        "slow queries hold connections: see their times; or raise DATABASE_POOL_SIZE.",
        Prom('sum(ytdl_db_pool_connections{state="waiting"})'), unit="none", bad=(1, 20), least=0, runbook=("database#PoolExhausted",),
    ),
    number(
        "Connections of the server", "The part of PostgreSQL's connections that are in use, of all databases.", "under 80%.",
        "fewer instances, smaller pools, or a higher max_connections.",
        Prom("max(ytdl_db_server_connections / ytdl_db_server_max_connections)"), unit="percentunit", bad=(0.8, 0.95), least=0, most=1,
        runbook=("database#ConnectionsNearLimit",),
    ),
    number(
        "Redis keeps what it is told", "Whether the last write of Redis to its disk went well.", "yes.",
        "the disk is full or not writable: what is in Redis would be lost with a restart. The queue is made anew from PostgreSQL.",
        Prom("min(ytdl_kv_server_persistence_ok)"), unit="none", names=YES, runbook=("redis#RedisPersistenceFailing",),
    ),
])  # fmt: skip

CHECKS = Row("Readiness", [
    lines(
        "What the service needs", "1 for each check that passes, on the instance where it is worst.", "1.",
        "an instance that is not ready takes no requests from a proxy that asks /readyz.",
        Prom("min by (check) (ytdl_health_ready)", "{{check}}"), unit="none", most=1, width=FULL, bad=(1,), low=True,
        runbook=("database#PostgresDown", "redis#RedisDown"),
    ),
])  # fmt: skip

POSTGRES = Row("PostgreSQL", [
    lines(
        "Time of queries", "The time within which 95 of 100 queries are answered, by feature.", "under 25 ms.",
        "one feature: its queries lack an index or return too much. All: the disk or the CPU of the server.",
        Prom(f"histogram_quantile(0.95, {QUERY_SECONDS})", "{{feature}}"), unit="s", bad=(0.1, 1), runbook=("database#QueriesSlow",), see="http",
    ),
    table_of(
        "Queries that cost most", "Of the window: the fifteen queries with the most time together, how often they were asked, and their mean.",
        "the queue's own lead on a quiet service.", "the mean tells whether one is slow or only asked often; sql/queries has its text.",
        Prom("topk(15, sum by (query) (increase(ytdl_db_query_busy_seconds_total[$__range])))"),
        Prom("sum by (query) (increase(ytdl_db_queries_total[$__range])) > 0"),
        Prom("sum by (query) (increase(ytdl_db_query_busy_seconds_total[$__range])) / (sum by (query) (increase(ytdl_db_queries_total[$__range])) > 0)"),
        columns={"query": "Query", "Value #A": "Time", "Value #B": "Asked", "Value #C": "Mean"},
        units={"Time": "s", "Asked": "short", "Mean": "s"},
    ),
    lines(
        "Queries that fail", "Queries that failed in a minute: the server was away, somebody else was first, or anything else.", "0; conflicts are ordinary.",
        "unavailable: the server is down, reads only, or is out of connections. Other: the log has each.",
        Prom("60 * sum by (kind) (rate(ytdl_db_errors_total[$__rate_interval]))", "{{kind}}"), unit="none", runbook=("database#QueriesFailing",),
    ),
    lines(
        "Pool", "Connections of the pools of all instances, those that are idle, and requests that wait for one.", "some idle, none wait.",
        "slow queries hold connections: see their times.",
        Prom("sum by (state) (ytdl_db_pool_connections)", "{{state}}"), unit="none", runbook=("database#PoolExhausted",),
    ),
    lines(
        "Wait for a connection", "How long a connection of the pool was waited for: 50, 95 and 99 of 100.", "under a millisecond.",
        "the pool is too small, or queries are slow.",
        *(Prom(f"histogram_quantile({part}, sum by (le) (rate(ytdl_db_pool_wait_seconds_bucket[$__rate_interval])))", name)
          for part, name in ((0.5, "half"), (0.95, "95%"), (0.99, "99%"))),
        unit="s", runbook=("database#PoolWaitHigh",),
    ),
    lines(
        "Server's connections", "Connections to the server, of all databases, and how many it takes.", "well below the limit.",
        "fewer instances, smaller pools, or a higher max_connections.",
        Prom("max(ytdl_db_server_connections)", "in use"), Prom("min(ytdl_db_server_max_connections)", "at most"), unit="none",
        runbook=("database#ConnectionsNearLimit",),
    ),
    lines(
        "Transactions", "Transactions of the database in a second, and those that were rolled back.", "few rolled back.",
        "many rolled back: conflicts or errors, see the log.",
        Prom("max by (outcome) (rate(ytdl_db_server_transactions_total[$__rate_interval]))", "{{outcome}}"), unit="ops",
    ),
    lines(
        "Read from cache", "The part of blocks that PostgreSQL found in its own cache.", "above 99% but for a while after a start.",
        "give shared_buffers more memory.",
        Prom('max by (job) (rate(ytdl_db_server_blocks_total{from="cache"}[$__rate_interval])) '
             "/ sum by (job) (max by (job, from) (rate(ytdl_db_server_blocks_total[$__rate_interval])))", "from cache"),
        unit="percentunit", most=1, bad=(0.9,), low=True, runbook=("database#CacheMissesHigh",),
    ),
    lines(
        "Longest transaction", "Age of the oldest open transaction.", "seconds, minutes during a backup.",
        "one that stays open keeps old rows from being cleaned up: find and end it.",
        Prom("max(ytdl_db_server_longest_transaction_seconds)", "oldest"), unit="s", bad=(300, 1800), runbook=("database#LongTransaction",),
    ),
    lines(
        "Size of the database", "Size of the database on the server's disk.", "grows slowly with log rows and the audit trail.",
        "a jump: see which table with psql.", Prom("max(ytdl_db_server_size_bytes)", "size"), unit="bytes", see="analytics",
    ),
    lines(
        "Deadlocks and archiving", "Deadlocks, and WAL files that could not be archived, in the window behind each point.", "0.",
        "archiving that fails fills the server's disk, and backups end there.",
        Prom("max(increase(ytdl_db_server_deadlocks_total[$__rate_interval]))", "deadlocks"),
        Prom("max(increase(ytdl_db_server_archive_failures_total[$__rate_interval]))", "not archived"), unit="none", width=FULL,
        runbook=("database#Deadlocks", "database#ArchiveFailing"),
    ),
])  # fmt: skip

REDIS = Row("Redis", [
    lines(
        "Time of calls", "The time within which 95 of 100 calls are answered, by call.", "under 5 ms.",
        "Redis is busy with others' slow commands, or the network is.",
        Prom(f"histogram_quantile(0.95, {CALL_SECONDS})", "{{call}}"), unit="s", bad=(0.025, 0.25), runbook=("redis#RedisSlow",),
    ),
    lines(
        "Calls that fail", "Calls that failed in a minute, by instance.", "0.",
        "the service goes on without Redis: limits count in each process, streams reach readers of the same process.",
        Prom("60 * sum by (instance) (rate(ytdl_kv_errors_total[$__rate_interval]))", "{{instance}}"), unit="none", runbook=("redis#RedisCallsFailing",),
    ),
    lines(
        "Memory of Redis", "Memory that Redis uses, and what it may use; 0 is no limit.", "flat; the service needs some MiB.",
        "others share the server, or it has a limit that is too low.",
        Prom("max(ytdl_kv_server_memory_bytes)", "in use"), Prom("max(ytdl_kv_server_max_memory_bytes)", "at most"), unit="bytes",
        runbook=("redis#RedisMemoryNearLimit",),
    ),
    lines(
        "Keys", "Keys of all databases of the server, and those it gave up for want of memory in the window behind each point.", "none given up.",
        "raise maxmemory; the index of the queue is made anew when it is missed.",
        Prom("max(ytdl_kv_server_keys)", "keys"), Prom("max(increase(ytdl_kv_server_evicted_keys_total[$__rate_interval]))", "given up"),
        unit="short", runbook=("redis#RedisEvicting",),
    ),
    lines(
        "Commands", "Commands that the server ran in a second, for all who use it.", "follows the requests.",
        "far more than requests: somebody else uses it.",
        Prom("max(rate(ytdl_kv_server_commands_total[$__rate_interval]))", "commands"), unit="ops",
    ),
    lines(
        "Connections to Redis", "Connections of the pools of all instances, by state, and all of the server.", "some dozens.",
        "growing without end: a client that does not close them.",
        Prom("sum by (state) (ytdl_kv_pool_connections)", "{{state}}"), Prom("max(ytdl_kv_server_clients)", "all of the server"), unit="none",
    ),
])  # fmt: skip

BOARD = Board(
    "servers", "PostgreSQL and Redis", "Whether PostgreSQL and Redis answer, how fast, and what of theirs can run out.",
    [NOW, CHECKS, POSTGRES, REDIS],
)  # fmt: skip
