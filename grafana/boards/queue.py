"""The queue and its workers: what waits and for how long, who works, and whether leases and loops are kept."""

from grafana.board import Board, Row
from grafana.panels import FULL, Prom, bars, heatmap_of, lines, number

NOW = Row("Now", [
    number(
        "Waiting", "Jobs that are queued or wait for another try.", "near 0, more after a rush.",
        "see whether workers are busy, or something holds them up.",
        Prom('max(sum by (instance) (ytdl_queue_jobs{state=~"queued|retry_wait"}))'), unit="none", least=0, runbook=("queue#QueueStalled",),
    ),
    number(
        "Oldest that is due", "How long the job that waits longest has been due.", "under a minute.",
        "workers full: more slots. Workers idle: see loops, lanes and the disk.",
        Prom("max(ytdl_queue_oldest_ready_seconds)"), unit="s", bad=(60, 300), least=0, see="fetcher", runbook=("queue#OldestJobTooOld",),
    ),
    number(
        "Started within a minute", "The part of jobs that were taken within 60 seconds of being due and their user running fewer than may run at once, over five minutes and all instances.", "99% and more, the objective.",
        "more is asked for than fits into the slots, or nobody takes jobs.",
        Prom('1 - max(ytdl:objective_errors:ratio_rate5m{objective="freshness"})'),
        unit="percentunit", bad=(0.95, 0.99), low=True, most=1, runbook=("objectives#FreshnessBudgetBurn",),
    ),
    number(
        "Slots in use", "The part of all workers' slots that run a job.", "under 90% but for a rush.",
        "raise DOWNLOAD_CONCURRENCY as far as memory and the line allow, or run another instance.",
        Prom("sum(ytdl_worker_running) / clamp_min(sum(ytdl_worker_slots), 1)"), unit="percentunit", bad=(0.9, 1), least=0, most=1, runbook=("queue#WorkersSaturated", "queue#NoWorkers"),
    ),
])  # fmt: skip

QUEUE = Row("Queue", [
    lines(
        "Jobs, by state", "Jobs that have not ended, by state.", "running follows what is asked for, the others are low.",
        "retry_wait that grows means failures: see the reasons on the dashboard of downloads.",
        Prom("max by (state) (ytdl_queue_jobs)", "{{state}}"), unit="none", stacked=True, see="downloads",
    ),
    lines(
        "Wait", "From when a job was due, and its user ran fewer than may run at once, until a worker took it: half of them, 95 and 99 of 100.", "under a minute.",
        "see whether slots are full, or nobody takes jobs.",
        *(Prom(f"histogram_quantile({part}, sum by (le) (rate(ytdl_queue_wait_seconds_bucket[$__rate_interval])))", name)
          for part, name in ((0.5, "half"), (0.95, "95%"), (0.99, "99%"))),
        unit="s", bad=(60,),
    ),
    heatmap_of(
        "Waits", "How many jobs waited how long: dark is many.", "dark in the lowest rows.",
        "two bands: some jobs are passed over, as those of users who have many, or that have crashed twice.",
        Prom("sum by (le) (increase(ytdl_queue_wait_seconds_bucket[$__rate_interval]))", "{{le}}"), unit="s",
    ),
    lines(
        "Changes of state", "Committed changes of jobs in a minute, by what was done.", "submit, claim and complete go together.",
        "reap: workers die or are cut off. defer: lanes or the disk. retry: failures.",
        Prom("60 * sum by (op) (rate(ytdl_queue_transitions_total[$__rate_interval]))", "{{op}}"), unit="none", runbook=("queue#DownloadKillsWorkers",),
    ),
    lines(
        "Lost leases", "In a minute: writes that were refused because their lease was lost, and jobs taken back from workers that stopped renewing.",
        "0.", "a worker stood still or died: look at its memory, its event loop, and the log.",
        Prom("60 * sum by (op) (rate(ytdl_queue_fenced_total[$__rate_interval]))", "refused {{op}}"),
        Prom('60 * sum(rate(ytdl_queue_transitions_total{op="reap"}[$__rate_interval]))', "taken back"), unit="none", see="system", runbook=("queue#JobsReaped", "queue#FencedWritesSeen"),
    ),
    lines(
        "Index in Redis", "In a minute: times the index was made anew, jobs put back into it, and suggestions that PostgreSQL refused.",
        "0, but after a restart of Redis.", "if it goes on, Redis forgets or is shared with others: see its evicted keys.",
        Prom("60 * sum(rate(ytdl_queue_rebuilds_total[$__rate_interval]))", "made anew"),
        Prom("60 * sum(rate(ytdl_queue_ensured_total[$__rate_interval]))", "put back"),
        Prom("60 * sum(rate(ytdl_queue_stale_total[$__rate_interval]))", "refused"), unit="none", see="servers", runbook=("queue#RedisIndexDiverged", "queue#IndexRebuilt"),
    ),
])  # fmt: skip

WORKERS = Row("Workers", [
    lines(
        "Slots", "What each instance runs, and how much it may.", "below the limit.", "at the limit for long: more slots or instances.",
        Prom("ytdl_worker_running", "{{instance}} runs"), Prom("ytdl_worker_slots", "{{instance}} may run"), unit="none",
    ),
    lines(
        "Lag of the event loop", "How late the event loop wakes: 50, 99 and 99.9 of 100.", "99% under 50 ms.",
        "something blocks the loop or the machine has no CPU to give: requests, leases and streams all wait for it.",
        *(Prom(f"histogram_quantile({part}, sum by (le) (rate(ytdl_loop_lag_seconds_bucket[$__rate_interval])))", name)
          for part, name in ((0.5, "half"), (0.99, "99%"), (0.999, "99.9%"))),
        unit="s", bad=(0.05, 0.5), see="system", runbook=("service#EventLoopLagHigh",),
    ),
    bars(
        "Loops: since their last round", "How long ago each loop of the background did its round, the slowest instance.",
        "seconds; sweep and link take up to a minute.", "one that stands still is named in the log with its error; restart the instance if it does not come back.",
        Prom("max by (loop) (time() - (ytdl_worker_loop_last_success_timestamp_seconds > 0))", "{{loop}}"), unit="s", bad=(60, 300),
    ),
    lines(
        "Loops: failed rounds", "Rounds of background loops that failed, in a minute.", "0.",
        "mostly PostgreSQL or Redis that was away: see the dashboard of the servers.",
        Prom("60 * sum by (loop) (rate(ytdl_worker_loop_errors_total[$__rate_interval]))", "{{loop}}"), unit="none", see="servers", runbook=("service#LoopFailing",),
    ),
    lines(
        "Leftovers removed", "Folders and files of attempts that nobody needs any more, removed in a minute.", "few.",
        "many at once follow a crash.",
        Prom("60 * sum by (what) (rate(ytdl_worker_swept_total[$__rate_interval]))", "{{what}}"), unit="none", width=FULL,
    ),
])  # fmt: skip

BOARD = Board(
    "queue", "Queue and workers", "What waits and for how long, who works, and whether leases and background loops are kept.",
    [NOW, QUEUE, WORKERS],
)  # fmt: skip
