"""The audit trail over HTTP, for admins: its events, figures of a window, and a report."""

from aiohttp import web

from ytdl import security, security_report
from ytdl.api.http import attachment
from ytdl.api.keys import DB
from ytdl.security import EventFilter, EventPage, Report, ReportWish, Stats, Window


async def page(request: web.Request, query: EventFilter) -> EventPage:
    """List security events, the newest first.

    Filters are combined. That somebody looked is an event as well.
    """
    return await security.events(request.app[DB], query)


async def stats(request: web.Request, query: Window) -> Stats:
    """Count the events of a window by type and severity, with the addresses that most came from.

    The last 24 hours where nothing else is asked for, 366 days at most; and what is blocked at this moment.
    """
    return await security.stats(request.app[DB], query)


async def report(request: web.Request, body: ReportWish) -> Report | web.Response:
    """Make a report of a window of at most 366 days.

    As JSON, as CSV for spreadsheets, or as Markdown to read: `format` says which.
    """
    made = await security.report(request.app[DB], body)
    if body.format == "csv":
        return attachment(security_report.csv_of(made), "text/csv", "security-report.csv")
    if body.format == "markdown":
        return attachment(security_report.markdown_of(made), "text/markdown", "security-report.md")
    return made
