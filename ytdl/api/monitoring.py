"""Monitoring over HTTP: metrics and their course, the service's health, and thresholds. For admins, but for a look at
the health."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web

from ytdl import monitoring_forms
from ytdl.api.http import Answer, attachment, who
from ytdl.api.keys import CHECKUP, MONITORING, REPORTER, THRESHOLDS
from ytdl.checkup import Condition
from ytdl.monitoring import CourseQuery, StatsQuery
from ytdl.monitoring_report import MonitoringReport, MonitoringWish
from ytdl.thresholds import NewThreshold, Threshold, ThresholdList


async def metrics(request: web.Request) -> Answer:
    """List every metric of the service, with what it reads now.

    Those of the process that answers; where several share the work, each has its own.
    """
    return await _encoded(await request.app[MONITORING].metrics())


async def metric(request: web.Request, query: CourseQuery) -> Answer:
    """See what one metric reads now, and its course over a time.

    The course is there where `from`, `to`, `step` or another parameter asks for it. It comes from Prometheus and tells
    of all processes: of a gauge its values, of a counter the rate per second, of a histogram three quantiles. 1,000
    points of 100 series at most; where the metric has more and `by` is left out, the greatest, as `expression` says.
    """
    return await _encoded(await request.app[MONITORING].metric(request.match_info["metric_name"], query))


async def stats(request: web.Request, query: StatsQuery) -> Answer:
    """See the least, the greatest, the mean and quantiles of a metric over a time.

    Of a gauge's values, of a counter's rate per second, or of what a histogram has observed; `of` says which.
    """
    return await _encoded(await request.app[MONITORING].stats(request.match_info["metric_name"], query))


async def health(request: web.Request) -> Condition:
    """See how the service is, and what each thing answers that it needs.

    Takes 2 seconds at most. The answer is 200 whatever is found; `/readyz` says it by its status.
    """
    return await request.app[CHECKUP].look()


async def check(request: web.Request) -> Condition:
    """Check everything that the service needs by using it.

    Writes and reads back in PostgreSQL, in Redis and on the disk, and asks Prometheus and Alertmanager. Where this
    process runs downloads it also starts a job that does nothing, a script and ffmpeg. Takes 10 seconds at most.
    """
    return await request.app[CHECKUP].try_all()


async def thresholds(request: web.Request) -> ThresholdList:
    """List the figures that can have thresholds, with those that are set."""
    return await request.app[THRESHOLDS].all()


async def set_threshold(request: web.Request, body: NewThreshold) -> Threshold:
    """Set the value above which a figure is an alert.

    Above `warning` or `critical` for `for_seconds`. It is in force with Prometheus' next look at the service. Both left
    out or null removes what was set, which counts for another minute; what alerts for it ends within two.
    """
    name, user = request.match_info["metric_name"], who(request).user_id
    return await request.app[THRESHOLDS].set(name, body, user_id=user)


async def report(request: web.Request, body: MonitoringWish) -> MonitoringReport | web.Response:
    """Make a report of a time of at most 31 days.

    What was promised and how much of it was kept, what alerted and for how long, and the figures behind it. As JSON, as
    CSV for spreadsheets, or as Markdown to read: `format` says which.
    """
    made = await request.app[REPORTER].report(body)
    if body.format == "csv":
        return attachment(monitoring_forms.csv_of(made), "text/csv", "monitoring-report.csv")
    if body.format == "markdown":
        return attachment(monitoring_forms.markdown_of(made), "text/markdown", "monitoring-report.md")
    return made


async def _encoded(value: Any) -> Answer:
    """In a thread: some megabytes are more than the loop should wait for."""
    return Answer(msgspec.Raw(await asyncio.to_thread(msgspec.json.encode, value)))
