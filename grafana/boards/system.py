"""The machine, the instance's own processes, and what watches them: Prometheus, Alertmanager, notifications, traces."""

from grafana.board import Board, Row
from grafana.panels import FULL, THIRD, Prom, bars, lines, number, table_of

# Of the service's own processes only: other jobs have such series too.
OURS = "and on (job, instance) ytdl_build_info"

NOW = Row("Now", [
    number(
        "CPU", "The part of the processors' time that is in use, on the busiest machine.", "under 70%.",
        "fewer downloads at once (DOWNLOAD_CONCURRENCY), or more processors.",
        Prom("max(ytdl_system_cpu_usage_ratio)"), unit="percentunit", bad=(0.7, 0.9), least=0, most=1, runbook=("host#MachineCpuHigh",),
    ),
    number(
        "Memory of the instance", "Memory of the largest instance, as a part of what it should stay below: 512 MiB, or its control group's limit.",
        "under 80%.", "see which part below; fewer downloads at once need less.",
        Prom("max(sum by (instance) (ytdl_instance_memory_bytes) / sum by (instance) (ytdl_instance_memory_limit_bytes))"),
        unit="percentunit", bad=(0.8, 0.95), least=0, runbook=("service#MemoryNearLimit",),
    ),
    number(
        "Disk", "The part of the disk for downloads that is full.", "under 80%.", "delete files, or give it a larger disk.",
        Prom("max(1 - ytdl_disk_free_bytes / ytdl_disk_total_bytes)"), unit="percentunit", bad=(0.8, 0.95), least=0, most=1,
        runbook=("host#DiskFull", "host#DiskWillFill"), see="downloads",
    ),
    number(
        "Up for", "Time since the youngest instance was started.", "since the last update.", "restarts that nobody made: see the log.",
        Prom(f"time() - max(process_start_time_seconds {OURS})"), unit="s", least=0, runbook=("service#InstanceRestarting",),
    ),
])  # fmt: skip

MACHINE = Row("Machine", [
    lines(
        "Processors", "The part of the processors' time that is in use, by machine, or by control group where that has a limit.", "under 70%.",
        "compare with the instance's own below: somebody else may use them.",
        Prom("ytdl_system_cpu_usage_ratio", "{{instance}}"), unit="percentunit", most=1, bad=(0.7, 0.9), runbook=("host#MachineCpuHigh",),
    ),
    lines(
        "Load", "Processes that ran or waited to, on the average of a minute.", "about the number of processors.", "as for processors.",
        Prom("ytdl_system_load_average", "{{instance}}"), unit="none",
    ),
    lines(
        "Memory of the machine", "Memory, and what of it can be had without swapping.", "some hundred MiB to be had.",
        "the kernel ends processes when there is none: see which part of the instance grows.",
        Prom("ytdl_system_memory_available_bytes", "{{instance}} to be had"), Prom("ytdl_system_memory_total_bytes", "{{instance}} in all"),
        unit="bytes", runbook=("host#MachineMemoryLow",),
    ),
    lines(
        "Network", "Bytes in a second over the machine's interfaces; loopback does not count.", "below what the line gives.",
        "at the line's limit all downloads are slow.",
        Prom("sum by (instance, direction) (rate(ytdl_system_network_bytes_total[$__rate_interval]))", "{{instance}} {{direction}}"), unit="binBps",
    ),
    lines(
        "Disk for downloads", "Size of the disk, free space, and the watermark below which nothing is begun.", "free space far above the watermark.",
        "delete files, or give it a larger disk.",
        Prom("max by (instance) (ytdl_disk_total_bytes)", "{{instance}} in all"), Prom("min by (instance) (ytdl_disk_free_bytes)", "{{instance}} free"),
        Prom("max by (instance) (ytdl_disk_watermark_bytes)", "{{instance}} watermark"), unit="bytes", runbook=("host#DiskFull", "host#DiskWillFill", "host#DownloadsPutOffForDisk"),
    ),
    lines(
        "Open files", "Files and connections that the service's process has open, and how many it may.", "well below the limit.",
        "growing without end: something is not closed; raise the limit and report it.",
        Prom(f"process_open_fds {OURS}", "{{instance}}"), Prom(f"process_max_fds {OURS}", "{{instance}} may"), unit="none", runbook=("host#FilesNearLimit",),
    ),
])  # fmt: skip

INSTANCE = Row("Instance", [
    lines(
        "Memory, by part", "Memory (PSS) of the service, the fork server and its jobs; the limit is 512 MiB, or the control group's.", "under the limit.",
        "jobs: fewer downloads at once. Service: report it, with the number of streams and requests.",
        Prom("sum by (part) (ytdl_instance_memory_bytes)", "{{part}}"), Prom("sum(ytdl_instance_memory_limit_bytes)", "limit of all"),
        unit="bytes",
    ),
    lines(
        "Processors' time, by part", "Processors that the service, the fork server and its jobs keep busy.", "under one for the service.",
        "service: see requests and the event loop. Jobs: merging and converting.",
        Prom("sum by (part) (rate(ytdl_instance_cpu_seconds_total[$__rate_interval]))", "{{part}}"), unit="none", stacked=True, runbook=("service#ServiceCpuHigh",),
    ),
    lines(
        "Processes, by part", "Processes of the instance.", "one each, and one or a few for each job that runs.", "more jobs' processes than jobs: report it.",
        Prom("sum by (part) (ytdl_instance_processes)", "{{part}}"), unit="none", width=THIRD, see="queue",
    ),
    lines(
        "Garbage collections", "Collections of Python's garbage in a second, by generation.", "few of generation 2.",
        "many of generation 2: many long-lived objects; compare with the lag of the event loop.",
        Prom(f"sum by (generation) (rate(python_gc_collections_total[$__rate_interval]) {OURS})", "{{generation}}"), unit="ops", width=THIRD,
    ),
    lines(
        "Event loop", "How late the event loop wakes, 99 of 100, by instance.", "under 50 ms.", "something blocks it, or there is no CPU to be had.",
        Prom("histogram_quantile(0.99, sum by (le, instance) (rate(ytdl_loop_lag_seconds_bucket[$__rate_interval])))", "{{instance}}"),
        unit="s", bad=(0.05, 0.5), width=THIRD, see="queue", runbook=("service#EventLoopLagHigh",),
    ),
])  # fmt: skip

WATCHING = Row("What watches", [
    lines(
        "Scrapes", "How long Prometheus takes for a scrape, and how long the instance takes to refresh its gauges.", "well under a second.",
        "a slow refresh waits for PostgreSQL or Redis, a slow scrape for the event loop.",
        Prom('max by (instance) (scrape_duration_seconds{job=~"$job", instance=~"$instance"})', "{{instance}} scrape"),
        Prom("max by (instance) (ytdl_worker_collection_seconds)", "{{instance}} refresh"), unit="s", bad=(1, 10), runbook=("monitoring#ScrapeSlow", "service#MetricsStale"),
    ),
    lines(
        "Series", "Series that a scrape brings, by instance.", "under 2,500, whatever is asked of the service.", "more: a label has values that are not in a closed list.",
        Prom('max by (instance) (scrape_samples_scraped{job=~"$job", instance=~"$instance"})', "{{instance}}"), unit="short", bad=(2500,), runbook=("monitoring#TooManySeries",),
    ),
    lines(
        "Notifications", "Messages that Alertmanager sent in a minute, and those that failed, by channel; SMS are sent by the service.", "none failed.",
        "send a test: /api/v1/monitoring/config/notifications with test.",
        Prom("60 * sum by (integration) (rate(alertmanager_notifications_total[$__rate_interval]))", "{{integration}}"),
        Prom("60 * sum by (integration) (rate(alertmanager_notifications_failed_total[$__rate_interval]))", "{{integration}} failed"),
        Prom("60 * sum by (channel, outcome) (rate(ytdl_notifications_sent_total[$__rate_interval]))", "{{channel}} {{outcome}}"), unit="none", runbook=("monitoring#NotificationChannelFailing", "monitoring#TextMessagesFailing"),
    ),
    lines(
        "Alerts that nobody has acknowledged", "Alerts by severity, acknowledged or not, as the service sees them in Alertmanager.", "0.",
        "acknowledge what is being worked on: POST /api/v1/monitoring/alerts/acknowledge.",
        Prom("max by (severity, state) (ytdl_alerts_active)", "{{severity}} {{state}}"), unit="none", stacked=True,
        runbook=("monitoring#WarningUnacknowledged",),
    ),
    lines(
        "Requests to Prometheus and Alertmanager", "Requests that the service made to them in a minute, by what came of them.", "ok.",
        "unreachable: see PROMETHEUS_URL and ALERTMANAGER_URL. Refused alone is mostly a question that was too large.",
        Prom("60 * sum by (server, outcome) (rate(ytdl_monitoring_requests_total[$__rate_interval]))", "{{server}} {{outcome}}"), unit="none", runbook=("monitoring#PrometheusNotReached",),
    ),
    lines(
        "Reloads of Alertmanager", "Times that Alertmanager was told of a new configuration in the window behind each point, by what came of it.", "ok, after a change.",
        "refused: Alertmanager's log tells why; it goes on with the configuration before.",
        Prom("sum by (outcome) (increase(ytdl_notifications_reloads_total[$__rate_interval]))", "{{outcome}}"), unit="none", runbook=("monitoring#NotificationConfigRefused",),
    ),
    lines(
        "Traces", "Spans in a second that were exported, or dropped for want of somebody who takes them.", "none dropped; none at all while tracing is off.",
        "see whether the collector at OTEL_EXPORTER_OTLP_ENDPOINT answers.",
        Prom("sum by (outcome) (rate(ytdl_tracing_spans_total[$__rate_interval]))", "{{outcome}}"), unit="ops", runbook=("monitoring#TracesDropped",),
    ),
    bars(
        "Since the notifications' configuration was written", "Time since an instance wrote Alertmanager's configuration.", "since the last change or start.",
        "never: ALERTMANAGER_CONFIG_FILE is not set, and Alertmanager has a configuration of its own.",
        Prom("time() - max by (instance) (ytdl_notifications_rendered_timestamp_seconds > 0) or max by (instance) (ytdl_build_info * 0)", "{{instance}}"), unit="s",
    ),
    table_of(
        "Measures and thresholds", "The ten figures that thresholds can be set for, by instance, beside the values above which they warn and are critical.",
        "below the thresholds.", "set them with POST /api/v1/monitoring/thresholds/{metric_name}.",
        Prom('max by (metric, instance) (ytdl:measure{instance=~"$instance"})'),
        Prom('max by (metric, instance) (ytdl_threshold_value{severity="warning"})'),
        Prom('max by (metric, instance) (ytdl_threshold_value{severity="critical"})'),
        width=FULL, columns={"metric": "Measure", "instance": "Instance", "Value #A": "Value", "Value #B": "Warns above", "Value #C": "Critical above"}, runbook=("thresholds#ThresholdWarning", "thresholds#ThresholdCritical"),
    ),
])  # fmt: skip

BOARD = Board(
    "system", "System", "The machine, the instance's own processes, and what watches them.",
    [NOW, MACHINE, INSTANCE, WATCHING],
)  # fmt: skip
