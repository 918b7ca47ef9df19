"""The first page: is anything wrong, is there error budget left, and the golden signals, each with a link to more."""

from grafana.board import FIRING, Board, Row
from grafana.panels import FULL, HALF, THIRD, Prom, bars, lines, number, table_of

OBJECTIVES = (
    "availability: 99.9% of answers are no 5xx; latency: 99% of simple ones within 200 ms; freshness: 99% of jobs start "
    "within 60 s; success: 98% of downloads but for users' own faults; notifications: 99% delivered."
)


def _firing(severity: str, meaning: str) -> Prom:
    return Prom(
        f'count(ALERTS{{alertstate="firing", alertname!="Watchdog", severity="{severity}"}}) or vector(0)', meaning
    )


NOW = Row("Now", [
    number(
        "Critical alerts", "Alerts that fire now and ought to wake somebody.", "0.",
        "look at the table of alerts below; each has a runbook.",
        _firing("critical", "critical"), unit="none", bad=(1,), least=0,
    ),
    number(
        "Warnings", "Alerts that fire now and are for working hours.", "0, or what somebody is at work on.",
        "acknowledge what is being worked on; after 30 minutes without that a warning becomes critical.",
        _firing("warning", "warning"), unit="none", bad=(1, 1000), least=0, runbook=("monitoring#WarningUnacknowledged",),
    ),
    number(
        "Instances up", "Processes of the service that Prometheus reaches.", "as many as are run.",
        "see whether the missing process runs, and whether Prometheus reaches its port.",
        Prom("count(ytdl_build_info) or vector(0)"), unit="none", bad=(1,), low=True, least=0, see="system", runbook=("service#InstanceDown", "service#ScrapeMissing"),
    ),
    number(
        "Ready", "The part of all checks of what the service needs that pass.", "100%.",
        "see which check fails on the dashboard of the servers.",
        Prom("avg(ytdl_health_ready)"), unit="percentunit", bad=(1,), low=True, least=0, most=1, see="servers", runbook=("service#NotReady",),
    ),
    number(
        "Requests", "Requests that are answered in a second, streams included.", "what your users make.",
        "none at all means that nobody reaches the service: look at the proxy in front.",
        Prom("sum(rate(ytdl_http_requests_total[$__rate_interval]))"), unit="reqps", least=0, see="http",
    ),
    number(
        "Answers with 5xx", "The part of answers that were errors of the service, over five minutes: probes, addresses that do not exist and monitoring do not count.", "under 0.1%, the objective.",
        "see which routes and which codes on the dashboard of the API.",
        Prom('max(ytdl:objective_errors:ratio_rate5m{objective="availability"})'),
        unit="percentunit", bad=(0.001, 0.01), least=0, see="http",
    ),
    number(
        "Downloads running", "Jobs that workers are at now, in all processes.", "no more than there are slots.",
        "none while some wait: see the queue.",
        Prom("sum(ytdl_worker_running)"), unit="none", least=0, see="queue",
    ),
    number(
        "Downloads waiting", "Jobs that are due or wait for another try.", "near 0, more after a rush.",
        "growing for long means that more is asked for than is fetched: see the queue.",
        Prom('max(sum by (instance) (ytdl_queue_jobs{state=~"queued|retry_wait"}))'), unit="none", least=0, see="queue",
    ),
    number(
        "Sign-ins refused", "Sign-ins that were refused in the window of the page.", "a few mistyped passwords.",
        "many: somebody guesses; see who on the dashboard of security.",
        Prom('sum(increase(ytdl_auth_logins_total{outcome!~"ok|again"}[$__range]))'), unit="short", least=0, see="security",
    ),
    number(
        "Ways out that are closed", "Lanes that are paused because the site refused, or tried again after that.", "0.",
        "see what the site answered on the dashboard of the fetcher.",
        Prom('sum(max by (lane) (ytdl_egress_lane_state{state!="open"}))'), unit="none", bad=(1,), least=0, see="fetcher",
    ),
    number(
        "Users", "Accounts that may sign in.", "as many as you have made or let register.",
        "what they use the service for is on the dashboard of analytics.",
        Prom('sum(max by (role) (ytdl_users_accounts{active="yes"}))'), unit="none", least=0, see="analytics",
    ),
    number(
        "Room on the disk", "Free space where downloads are written, on the fullest disk.", "far above the watermark.",
        "delete files, or give the service a larger disk.",
        Prom("min(ytdl_disk_free_bytes)"), unit="bytes", least=0, see="system", runbook=("host#DiskFull",),
    ),
])  # fmt: skip

BUDGETS = Row("Objectives", [
    bars(
        "Error budget left", f"What is left of 30 days' allowed failures, by objective. {OBJECTIVES}",
        "above 0; it is 100% when nothing fails.",
        "with less than a quarter left, put off what is risky; below 0 the objective of these 30 days is missed.",
        Prom("ytdl:objective:error_budget_remaining", "{{objective}}"),
        unit="percentunit", width=THIRD, bad=(0, 0.25), low=True, least=None, most=1, runbook=("objectives#NotificationsBudgetBurn",),
    ),
    lines(
        "Failures, by objective", "The part of events that missed their objective, over an hour.",
        "under what the objective allows: 0.1% for availability, 1% or 2% for the others.",
        "the dashboards of the API and of the queue tell what fails.",
        Prom("ytdl:objective_errors:ratio_rate1h", "{{objective}}"), unit="percentunit", width=THIRD, most=None,
    ),
    lines(
        "Burn rate", "How many times faster than allowed the budget is used up, over 6 hours.",
        "under 1: the budget lasts for its 30 days.",
        "from 6 on an alert is critical within hours; it names the objective.",
        Prom("ytdl:objective_errors:burn_rate6h", "{{objective}}"),
        unit="none", width=THIRD, bad=(1, 6),
    ),
])  # fmt: skip

SIGNALS = Row("Golden signals", [
    lines(
        "Latency", "Time to answer: half of all requests, 95 and 99 of 100. Streams and files do not count, sign-ins and reports do.",
        "95% within 200 ms; hashing a password takes longer on purpose.", "see which routes are slow on the dashboard of the API.",
        *(Prom(f"histogram_quantile({part}, sum by (le) (rate(ytdl_http_request_seconds_bucket[$__rate_interval])))", name)
          for part, name in ((0.5, "half"), (0.95, "95%"), (0.99, "99%"))),
        unit="s", bad=(0.2, 1), see="http",
    ),
    lines(
        "Traffic", "Requests in a second, by class of status.", "mostly 2xx.",
        "many 4xx come from a broken client or from somebody who guesses; 5xx are faults of the service.",
        Prom('sum by (class) (label_replace(rate(ytdl_http_requests_total{status!~"5.."}[$__rate_interval]), "class", "${1}xx", "status", "(.)..")'
             ")", "{{class}}"),
        # A series of a status begins with its first answer, which no rate sees.
        Prom("sum(rate(ytdl_http_failures_total[$__rate_interval]))", "5xx"),
        unit="reqps", stacked=True, see="http",
    ),
    lines(
        "Errors", "Problems that are answered in a second, by code.", "few; unauthorized and not_found come from clients.",
        "internal and unavailable are faults of the service: its log has each.",
        Prom("sum by (code) (rate(ytdl_http_errors_total[$__rate_interval]))", "{{code}}"), unit="reqps", see="http",
    ),
    lines(
        "Saturation", "How full what can run out is: workers, the database's connections, disk, memory, CPU.",
        "under 80%.", "whatever nears 100% is the next thing that stops; its dashboard tells more.",
        Prom("sum(ytdl_worker_running) / clamp_min(sum(ytdl_worker_slots), 1)", "workers"),
        Prom("max(ytdl_db_server_connections / ytdl_db_server_max_connections)", "database connections"),
        Prom("max(1 - ytdl_disk_free_bytes / ytdl_disk_total_bytes)", "disk"),
        Prom("max(sum by (instance) (ytdl_instance_memory_bytes) / sum by (instance) (ytdl_instance_memory_limit_bytes))", "memory"),
        Prom("max(ytdl_system_cpu_usage_ratio)", "CPU"),
        unit="percentunit", bad=(0.8, 0.95), see="system",
    ),
])  # fmt: skip

DOWNLOADS = Row("Downloads and alerts", [
    lines(
        "Downloads that ended", "Downloads that came to an end in a minute, by how.", "mostly completed.",
        "see the reasons on the dashboard of downloads.",
        Prom("60 * sum by (status) (rate(ytdl_downloads_finished_total[$__rate_interval]))", "{{status}}"),
        unit="none", stacked=True, see="downloads",
    ),
    lines(
        "Oldest job that is due", "How long the job that waits longest has been due.", "under a minute.",
        "see whether workers take jobs at all, and whether a lane or the disk holds them up.",
        Prom("max(ytdl_queue_oldest_ready_seconds)", "oldest"), unit="s", bad=(60, 300), see="queue",
    ),
    table_of(
        "Alerts that fire", "Each alert that fires now.", "only what somebody is at work on.",
        "follow the link of the alert's name to its rule, which names its runbook.",
        Prom(FIRING), width=FULL,
        columns={"alertname": "Alert", "severity": "Severity", "job": "Job", "instance": "Instance"},
        links={"Alert": ("The rule, with its runbook", "/alerting/list?search=${__value.text}")},
    ),
    lines(
        "Alerts", "How many alerts fire, by severity.", "0.", "see the table above.",
        Prom('count by (severity) (ALERTS{alertstate="firing", alertname!="Watchdog"}) or label_replace(vector(0), "severity", "none", "", "")',
             "{{severity}}"),
        unit="none", stacked=True, width=HALF,
    ),
    table_of(
        "Versions", "The service's version and yt-dlp's, by instance.", "the same everywhere, but for the time of an update.",
        "update what has been left behind.",
        Prom("ytdl_build_info"), columns={"instance": "Instance", "version": "Version", "ytdlp": "yt-dlp"}, see="fetcher", runbook=("service#VersionsDiffer",),
    ),
])  # fmt: skip

WATCHING = Row("What watches", [
    number(
        "Watchdog", "An alert that always fires: while it does, Prometheus evaluates rules.", "fires.",
        "Prometheus or its rules are broken, and no other alert would tell.",
        Prom('clamp_max(count(ALERTS{alertstate="firing", alertname="Watchdog"}) or vector(0), 1)'),
        unit="none", names={0: ("silent", "red"), 1: ("fires", "green")}, runbook=("monitoring#Watchdog",),
    ),
    number(
        "Targets that are down", "What Prometheus cannot scrape: instances, Alertmanager, itself.", "0.",
        "see whether it runs and whether Prometheus reaches its port.",
        Prom("count(up == 0) or vector(0)"), unit="none", bad=(1,), least=0,
        runbook=("monitoring#AlertmanagerDown", "service#InstanceDown", "service#ScrapeMissing"),
    ),
    number(
        "Rules that failed", "Evaluations of rules that failed, and writes of Prometheus to its disk, within the window.", "0.",
        "alerts of these rules would not fire: Prometheus names them on its page of rules.",
        Prom("(sum(increase(prometheus_rule_evaluation_failures_total[$__range])) or vector(0)) "
             "+ (sum(increase(prometheus_tsdb_wal_writes_failed_total[$__range])) or vector(0))"),
        unit="none", bad=(1,), least=0, runbook=("monitoring#PrometheusRuleFailing", "monitoring#PrometheusStorageFailing"),
    ),
    number(
        "Configurations refused", "Prometheus and Alertmanager that go on with an older configuration because they refused the newest.", "0.",
        "their logs tell why.",
        Prom("(count(prometheus_config_last_reload_successful == 0) or vector(0)) + (count(alertmanager_config_last_reload_successful == 0) or vector(0))"),
        unit="none", bad=(1,), least=0,
        runbook=("monitoring#PrometheusConfigReloadFailed", "monitoring#AlertmanagerConfigReloadFailed", "monitoring#NotificationConfigRefused"),
    ),
    number(
        "Messages that failed", "Messages of Alertmanager that failed, by all channels, and SMS that the service could not send, within the window.", "0.",
        "send a test: /api/v1/monitoring/config/notifications with test.",
        Prom("(sum(increase(alertmanager_notifications_failed_total[$__range])) or vector(0)) "
             '+ (sum(increase(ytdl_notifications_sent_total{outcome!="ok"}[$__range])) or vector(0))'),
        unit="none", bad=(1,), least=0, width=HALF, see="system",
        runbook=("monitoring#NotificationChannelFailing", "monitoring#TextMessagesFailing", "monitoring#AlertmanagerNotReached"),
    ),
    number(
        "Thresholds passed", "Figures that are beyond a threshold that an admin has set.", "0.",
        "see which on the dashboard of the system, or set another threshold.",
        Prom('count(ALERTS{alertstate="firing", alertname=~"Threshold(Warning|Critical)"}) or vector(0)'), unit="none", bad=(1,), least=0,
        width=HALF, see="system", runbook=("thresholds#ThresholdWarning", "thresholds#ThresholdCritical"),
    ),
])  # fmt: skip

BOARD = Board(
    "overview", "Overview",
    "Is anything wrong, how much error budget is left, and the golden signals: latency, traffic, errors, saturation.",
    [NOW, BUDGETS, SIGNALS, DOWNLOADS, WATCHING],
)  # fmt: skip
