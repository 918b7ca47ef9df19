"""The fetcher and its ways out: is yt-dlp ready and new enough, how long stages take, what the site refuses."""

from grafana.board import Board, Row
from grafana.panels import FULL, Prom, lines, number, table_of

# Two stands for an API only, which fetches nothing.
YES = {0: ("no", "red"), 1: ("yes", "green"), 2: ("no worker", "text")}
REFUSED = (
    "pause for longer (EGRESS_PAUSE_SECONDS), start fewer (EGRESS_STARTS_PER_MINUTE), or use another proxy or cookies."
)

NOW = Row("Now", [
    number(
        "Ready", "Whether the fork server takes jobs, on the worker where it is worst.", "yes.",
        "it is started again by itself; the log has the last words of the one before.",
        Prom("min(ytdl_fetcher_ready and on (job, instance) ytdl_worker_slots > 0) or vector(2)"), unit="none", names=YES,
        runbook=("fetcher#ForkServerDown",),
    ),
    number(
        "JavaScript", "Whether a JavaScript runtime was found that yt-dlp can use, on the worker where it is worst.", "yes.",
        "install the package deno again; without it most of YouTube's formats are missing.",
        Prom("min(ytdl_fetcher_javascript_ready and on (job, instance) ytdl_worker_slots > 0) or vector(2)"), unit="none", names=YES,
        runbook=("fetcher#JavaScriptMissing",),
    ),
    number(
        "Age of yt-dlp", "Time since the version in use was released.", "under two months.",
        "update: sites change, and an old version stops to understand them.",
        Prom("time() - (min(ytdl_fetcher_ytdlp_released_timestamp_seconds > 0) or vector(time()))"), unit="s", bad=(60 * 86400, 120 * 86400), least=0, runbook=("fetcher#YtdlpOld",),
    ),
    number(
        "Lanes that are open", "Ways out, each a proxy with its cookies, that attempts may start on.", "all of them.",
        "see below what the site answered.", Prom('sum(ytdl_egress_lane_state{state="open"})'),
        unit="none", bad=(1,), low=True, least=0, runbook=("fetcher#AllLanesPaused",),
    ),
])  # fmt: skip

ATTEMPTS = Row("Attempts", [
    lines(
        "Time of stages", "The time within which 95 of 100 attempts got through a stage.",
        "seconds for extracting and verifying, the others by the size of the files.",
        "extracting slow: the site or the proxy. Processing slow: CPU.",
        Prom("histogram_quantile(0.95, sum by (le, stage) (rate(ytdl_fetcher_stage_seconds_bucket[$__rate_interval])))", "{{stage}}"),
        unit="s", see="system",
    ),
    lines(
        "Ended by a deadline", "Attempts ended in a minute because nothing moved or they took too long, by where they were.", "0.",
        "the site is slow or holds connections open; see DOWNLOAD_STALL_SECONDS.",
        Prom("60 * sum by (stage) (rate(ytdl_fetcher_deadlines_total[$__rate_interval]))", "{{stage}}"), unit="none", runbook=("fetcher#JobsStalling",),
    ),
    lines(
        "Failures, by whose fault", "Downloads that failed in the end, in a minute: the user's, or not.", "the users' own only.",
        "others: the reasons on the dashboard of downloads name the cause.",
        Prom("60 * sum by (fault) (rate(ytdl_downloads_blamed_total[$__rate_interval]))", "{{fault}}"), unit="none", see="downloads", runbook=("fetcher#ExtractorBroken", "fetcher#MediaForbidden", "fetcher#SiteFailing", "fetcher#AttemptsFailHere"),
    ),
    lines(
        "Given up", "Downloads that failed in the end although their failure may pass, in a minute, by why.", "0.",
        "tries: what fails is not mended by waiting. Crashes: something kills workers, mostly memory.",
        Prom("60 * sum by (why) (rate(ytdl_downloads_given_up_total[$__rate_interval]))", "{{why}}"), unit="none", see="queue", runbook=("queue#DeadLettersGrowing", "queue#DownloadKillsWorkers"),
    ),
    lines(
        "CPU of children", "Processors' time that finished children took in a second.", "under one processor.",
        "merging and converting cost most: fewer of them at once.",
        Prom("sum(rate(ytdl_fetcher_cpu_seconds_total[$__rate_interval]))", "processors"), unit="none", see="system",
    ),
    lines(
        "Peak memory of children", "Peak memory of a child: half of them, and 95 of 100.", "some tens of MiB.",
        "a new version of yt-dlp or of the JavaScript runtime may need more: fewer at once.",
        Prom("histogram_quantile(0.5, sum by (le) (rate(ytdl_fetcher_peak_memory_bytes_bucket[$__rate_interval])))", "half"),
        Prom("histogram_quantile(0.95, sum by (le) (rate(ytdl_fetcher_peak_memory_bytes_bucket[$__rate_interval])))", "95%"),
        unit="bytes", see="system", runbook=("fetcher#JobMemoryHigh",),
    ),
    lines(
        "Starts of the fork server", "Times the fork server was started again, in the window behind each point.", "0.",
        "the kernel may have ended it for want of memory: see the log.",
        Prom("sum by (instance) (increase(ytdl_fetcher_restarts_total[$__rate_interval]))", "{{instance}}"), unit="none", width=FULL, runbook=("fetcher#ForkServerRestarting",),
    ),
])  # fmt: skip

LANES = Row("Ways out", [
    lines(
        "Lanes that are not open", "1 for each lane that is paused or tried again after a pause.", "0.", REFUSED,
        Prom('max by (lane, state) (ytdl_egress_lane_state{state!="open"})', "{{lane}} {{state}}"), unit="none", most=1, runbook=("fetcher#LanePaused",),
    ),
    lines(
        "Starts and permits", "Attempts started on a lane in a minute, and those that may start at once.", "permits left.",
        "no permits and a queue: more lanes, or a higher EGRESS_STARTS_PER_MINUTE where the site allows it.",
        Prom("60 * sum by (lane) (rate(ytdl_egress_starts_total[$__rate_interval]))", "{{lane}} starts"),
        Prom("min by (lane) (ytdl_egress_tokens)", "{{lane}} may start"), unit="none", see="queue",
    ),
    lines(
        "Pauses, by reason", "Times lanes were paused in the window behind each point, by what the site had answered.", "0.", REFUSED,
        Prom("sum by (lane, reason) (increase(ytdl_egress_pauses_total[$__rate_interval]))", "{{lane}} {{reason}}"), unit="none", runbook=("fetcher#BotChecksRising",),
    ),
    lines(
        "Probes", "Attempts that a lane's opening depended on, in the window behind each point, by how they ended.", "none while no lane is paused.",
        "refused again and again: the site has not forgotten.",
        Prom("sum by (outcome) (increase(ytdl_egress_probes_total[$__rate_interval]))", "{{outcome}}"), unit="none",
    ),
    lines(
        "Time closed", "The part of time that a lane was not open, as each instance saw it.", "0.", REFUSED,
        Prom("max by (lane) (rate(ytdl_egress_paused_seconds_total[$__rate_interval]))", "{{lane}}"), unit="percentunit", most=1,
    ),
    lines(
        "Until a lane is tried again", "Time that is left of a lane's pause; 0 while it is not paused.", "0.", REFUSED,
        Prom("clamp_min(max by (lane) (ytdl_egress_paused_until_timestamp_seconds) - time(), 0)", "{{lane}}"), unit="s",
    ),
])  # fmt: skip

COOKIES = Row("Cookies", [
    lines(
        "Users' cookies, by state", "Users whose uploaded cookies are in a state.", "valid or unproven.",
        "refused and expired: these users upload them anew.",
        Prom("max by (status) (ytdl_cookies_state)", "{{status}}"), unit="none", stacked=True, runbook=("fetcher#CookiesUnreadable",),
    ),
    lines(
        "Attempts with cookies", "Attempts in a minute that asked the site as their user, by whether it took the cookies.", "accepted.",
        "many refused at once: the site has changed what it wants, or the proxies stand elsewhere than the users.",
        Prom("60 * sum by (outcome) (rate(ytdl_cookies_used_total[$__rate_interval]))", "{{outcome}}"), unit="none", runbook=("fetcher#OperatorCookiesUnusable", "security#CookiesRefused"),
    ),
    table_of(
        "Age of cookies", "When the oldest of users' cookies were uploaded, the first of them expire, and the operator's file was changed; 1970 where there are none.",
        "weeks, not months.", "cookies that are old are refused sooner or later: upload them anew.",
        Prom("max by (instance) (ytdl_cookies_oldest_uploaded_timestamp_seconds) * 1000"), Prom("max by (instance) (ytdl_cookies_first_expiry_timestamp_seconds) * 1000"),
        Prom("max by (instance) (ytdl_cookies_file_modified_timestamp_seconds) * 1000"), width=FULL, unit="dateTimeAsIso",
        columns={"instance": "Instance", "Value #A": "Oldest uploaded", "Value #B": "First expires", "Value #C": "Operator's file"}, runbook=("fetcher#CookiesExpiring", "security#OperatorCookiesOld"),
    ),
])  # fmt: skip

BOARD = Board(
    "fetcher", "Fetcher and egress", "Whether yt-dlp is ready and new enough, how long its stages take, and what the site refuses on which way out.",
    [NOW, ATTEMPTS, LANES, COOKIES],
)  # fmt: skip
