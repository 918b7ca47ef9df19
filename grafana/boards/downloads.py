"""Downloads as their users see them: asked for, ended, how long, how large, why not."""

from grafana.board import Board, Row
from grafana.panels import FULL, HALF, Prom, bars, lines, number

FAULTS = "the reasons below tell whether it is the site, the way out, the disk or the videos."

NOW = Row("Now", [
    number(
        "Asked for", "Downloads accepted in the window of the page.", "what your users ask.",
        "none for long although there are users: see whether the API answers.",
        Prom("sum(increase(ytdl_downloads_created_total[$__range]))"), unit="short", least=0, see="http",
    ),
    number(
        "Completed", "The part of downloads that ended in the window as completed; cancelled ones do not count.",
        "above 90%; videos that are gone or private fail for what is not the service's fault.", FAULTS,
        Prom('sum(increase(ytdl_downloads_finished_total{status="completed"}[$__range])) '
             '/ sum(increase(ytdl_downloads_finished_total{status=~"completed|failed"}[$__range]))'),
        unit="percentunit", bad=(0.8, 0.9), low=True, least=0, most=1, see="fetcher",
    ),
    number(
        "Kept files", "Files that users can fetch now.", "what your users keep.",
        "see the room that is left on the disk.", Prom("max(ytdl_storage_kept_files)"), unit="short", least=0, see="system",
    ),
    number(
        "Size of kept files", "What these files take on the disk.", "well under what the disk has.",
        "files stay until their users delete them; see who keeps most on the dashboard of analytics.",
        Prom("max(ytdl_storage_kept_bytes)"), unit="bytes", least=0, see="analytics",
    ),
])  # fmt: skip

COURSE = Row("Course", [
    lines(
        "Asked for and ended", "Downloads in a minute: accepted, and ended by how.", "as many end as are asked for.",
        "more asked for than ended: the queue grows. Many failed: " + FAULTS,
        Prom("60 * sum(rate(ytdl_downloads_created_total[$__rate_interval]))", "asked for"),
        Prom("60 * sum by (status) (rate(ytdl_downloads_finished_total[$__rate_interval]))", "{{status}}"), unit="none", see="queue",
    ),
    lines(
        "Downloads, by status", "All downloads that are on record, by status.", "completed grows, the others come and go.",
        "queued that only grows: see the queue.",
        Prom("max by (status) (ytdl_downloads_state)", "{{status}}"), unit="short", see="queue",
    ),
    lines(
        "From asking to having", "From acceptance to completion: half of the downloads, and 95 of 100.",
        "a minute or two, more for long videos and in a rush.", "see whether they wait in the queue or are slow to fetch.",
        Prom("histogram_quantile(0.5, sum by (le) (rate(ytdl_downloads_seconds_bucket[$__rate_interval])))", "half"),
        Prom("histogram_quantile(0.95, sum by (le) (rate(ytdl_downloads_seconds_bucket[$__rate_interval])))", "95%"),
        unit="s", see="queue",
    ),
    lines(
        "Fetched", "Bytes that finished attempts have fetched from the site, in a second.", "up to what the line gives.",
        "at the line's limit downloads are slow for all: fewer at once, or a better line.",
        Prom("sum(rate(ytdl_downloads_fetched_bytes_total[$__rate_interval]))", "fetched"), unit="binBps", see="system",
    ),
    lines(
        "Size of files", "Size of delivered files: half of them, and 95 of 100.", "some hundred MB, by quality.",
        "a rise means that the disk fills faster.",
        Prom("histogram_quantile(0.5, sum by (le) (rate(ytdl_downloads_file_bytes_bucket[$__rate_interval])))", "half"),
        Prom("histogram_quantile(0.95, sum by (le) (rate(ytdl_downloads_file_bytes_bucket[$__rate_interval])))", "95%"),
        unit="bytes", see="system",
    ),
])  # fmt: skip

FAILURES = Row("Failures", [
    lines(
        "Failures that are not the users'", "The part of downloads that ended and failed by no fault of their user, over an hour and all instances.",
        "under 2%, the objective.", FAULTS,
        Prom('max(ytdl:objective_errors:ratio_rate1h{objective="success"})', "failed"), unit="percentunit", bad=(0.02, 0.1),
        width=FULL, see="fetcher", runbook=("objectives#SuccessBudgetBurn",),
    ),
    lines(
        "Failed attempts, by reason", "Attempts that failed in a minute, by reason.",
        "few: not_found, private and the like are the videos' own.",
        "bot_check and rate_limited: the way out; extractor reasons: a newer yt-dlp may know the site again.",
        Prom("60 * sum by (reason) (rate(ytdl_downloads_failed_total[$__rate_interval]))", "{{reason}}"), unit="none", see="fetcher", runbook=("queue#DeadLettersGrowing", "fetcher#ExtractorBroken"),
    ),
    bars(
        "Reasons in this window", "The ten most frequent reasons over the whole window.", "as above.", "as above.",
        Prom("topk(10, sum by (reason) (increase(ytdl_downloads_failed_total[$__range])))", "{{reason}}"),
        unit="short", see="fetcher",
    ),
    lines(
        "Put off for want of room", "Attempts that were put off because the disk has no room, in a minute: before they fetched, or when a write failed.",
        "0.", "delete files, or give the service a larger disk.",
        Prom("60 * sum by (when) (rate(ytdl_disk_deferred_total[$__rate_interval]))", "{{when}}"), unit="none", see="system", runbook=("host#DownloadsPutOffForDisk",),
    ),
    lines(
        "Room", "Free space where downloads are written, what running ones may yet write, and the watermark below which none is begun.",
        "free space far above the sum of the other two.", "delete files, or give the service a larger disk.",
        Prom("min(ytdl_disk_free_bytes)", "free"), Prom("max(ytdl_disk_reserved_bytes)", "promised to running downloads"),
        Prom("max(ytdl_disk_watermark_bytes)", "watermark"), unit="bytes", width=HALF, see="system", runbook=("host#DiskFull", "host#DiskWillFill"),
    ),
])  # fmt: skip

BOARD = Board(
    "downloads", "Downloads", "Downloads as their users see them: how many, how long, how large, and why some fail.",
    [NOW, COURSE, FAILURES],
)  # fmt: skip
