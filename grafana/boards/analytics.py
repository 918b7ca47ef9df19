"""What the service is used for, from PostgreSQL's views for dashboards: videos, formats, qualities, users.

The views tell which videos many ask for and how much each user does, and nowhere who asked for which video. Copies in a
drive and temporary URLs are not part of the service yet, so nothing is shown of them.
"""

from grafana.board import Board, Row
from grafana.panels import FULL, HALF, THIRD, Sql, bars, lines, number, table_of

ASKED = "FROM analytics.downloads WHERE $__timeFilter(created_at)"
# The days that the window touches.
DAYS = "day > $__timeFrom()::timestamptz - interval '1 day' AND day <= $__timeTo()::timestamptz"
WEEKS = DAYS.replace("day >", "week >").replace("day <=", "week <=").replace("'1 day'", "'7 days'")
MANY = "Only what three users or more asked for in the same week counts, once that week is over, so that nobody sees who asked."
USE = "as it comes; this is to know what the service is used for."

NOW = Row("In this window", [
    number(
        "Downloads asked for", "Downloads that were asked for and are still on record: who deletes one takes it out of this.", USE,
        "none although users are there: see the API's dashboard.", Sql(f"SELECT count(*) {ASKED}"), unit="short", see="downloads",
    ),
    number(
        "Users who asked", "Users who asked for at least one download, over the days of the window.", USE, "far fewer than accounts: see who never signed in, below.",
        Sql(f"SELECT count(DISTINCT username) FROM analytics.users WHERE {DAYS}"), unit="short",
    ),
    number(
        "Size of what was asked for", "Size of the files of these downloads, as far as they are done.", "what the disk can keep.",
        "see who keeps most, below.", Sql(f"SELECT coalesce(sum(megabytes), 0) * 1000000 {ASKED}"), unit="bytes", see="system",
    ),
    number(
        "Users signed in", "Accounts that signed in within the window.", USE, "none: see sign-ins on the dashboard of security.",
        Sql("SELECT count(*) FROM analytics.accounts WHERE $__timeFilter(last_login)"), unit="short", see="security",
    ),
])  # fmt: skip

VIDEOS = Row("Videos", [
    table_of(
        "Popular videos", f"The videos that were asked for most, over the weeks of the window. {MANY}", USE,
        "one that few ask for again and again is a script: see users. Empty: the window has no week that is over.",
        Sql("SELECT max(title) AS \"Video\", max(uploader) AS \"Uploader\", extractor AS \"Site\", max(askers) AS \"Users in a week\", "
            f"sum(times) AS \"Asked for\" FROM analytics.videos WHERE {WEEKS} GROUP BY extractor, video_id ORDER BY sum(times) DESC, 1 LIMIT 25"),
        width=FULL,
    ),
    table_of(
        "Popular uploaders", f"Those whose videos were asked for most, over the weeks of the window. {MANY}", USE, "nothing is to be done.",
        Sql("SELECT uploader AS \"Uploader\", count(DISTINCT video_id) AS \"Videos\", sum(times) AS \"Asked for\" "
            f"FROM analytics.videos WHERE {WEEKS} AND uploader IS NOT NULL GROUP BY uploader ORDER BY sum(times) DESC, 1 LIMIT 15"),
    ),
    lines(
        "Asked for, by status", "Downloads by the hour in which they were asked for, by what became of them.", "mostly completed.",
        "failed: the reasons are below.",
        Sql(f"SELECT $__timeGroupAlias(created_at, '1h'), status AS metric, count(*) AS value {ASKED} GROUP BY 1, 2 ORDER BY 1", series=True),
        unit="short", stacked=True, see="downloads",
    ),
])  # fmt: skip

KINDS = Row("Formats and qualities", [
    bars(
        "Formats", "Downloads by the format that was asked for.", USE, "nothing is to be done.",
        Sql(f"SELECT format, count(*) AS downloads {ASKED} GROUP BY 1 ORDER BY 2 DESC"), unit="short", width=THIRD,
    ),
    bars(
        "Qualities", "Downloads by the quality that was asked for.", USE, "high ones take the most room and time.",
        Sql(f"SELECT quality, count(*) AS downloads {ASKED} GROUP BY 1 ORDER BY 2 DESC"), unit="short", width=THIRD,
    ),
    bars(
        "Heights", "Downloads by the height of the picture that the site had, in lines.", USE, "lower than what was asked for: the site has no more, or hides it.",
        Sql(f"SELECT height::text || ' lines' AS height, count(*) AS downloads {ASKED} AND height IS NOT NULL GROUP BY downloads.height ORDER BY 2 DESC LIMIT 12"),
        unit="short", width=THIRD, see="fetcher",
    ),
    table_of(
        "What attempts cost", "Attempts by format and quality: how many, the part that completed, and of those the middle speed, and memory that 95 of 100 stay below.",
        "a part above 90%.", "one combination that fails more often: see its reasons in the log.",
        Sql("SELECT format AS \"Format\", quality AS \"Quality\", count(*) AS \"Attempts\", "
            "avg((status = 'completed')::int) AS \"Completed\", percentile_cont(0.5) WITHIN GROUP (ORDER BY speed_bytes_per_second) AS \"Speed\", "
            "sum(cpu_seconds) AS \"CPU\", percentile_cont(0.95) WITHIN GROUP (ORDER BY peak_memory_bytes) AS \"Memory\" "
            "FROM analytics.attempts WHERE $__timeFilter(started_at) AND finished_at IS NOT NULL GROUP BY 1, 2 ORDER BY 3 DESC LIMIT 25"),
        width=FULL, units={"Completed": "percentunit", "Speed": "binBps", "CPU": "s", "Memory": "bytes"}, see="fetcher",
    ),
])  # fmt: skip

USERS = Row("Who asks", [
    table_of(
        "Users", "What each user asked for over the days of the window, how much of it completed, its size, and the average time from asking to having.", USE,
        "somebody who takes up everything: give them limits of their own, PUT /api/v1/auth/users/{id}.",
        Sql("SELECT username AS \"User\", sum(downloads) AS \"Asked for\", sum(completed) AS \"Completed\", sum(failed) AS \"Failed\", "
            "sum(megabytes) * 1000000 AS \"Size\", sum(seconds) / nullif(sum(completed), 0) AS \"Time\" "
            f"FROM analytics.users WHERE {DAYS} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 50"),
        width=FULL, units={"Size": "bytes", "Time": "s"},
    ),
    bars(
        "Who keeps most", "Size of the files that users keep now, whenever they were asked for.", USE,
        "files stay until their users delete them.",
        Sql("SELECT username, sum(megabytes) * 1000000 AS size FROM analytics.users WHERE completed > 0 GROUP BY 1 ORDER BY 2 DESC LIMIT 15"),
        unit="bytes", see="system",
    ),
    table_of(
        "Accounts", "Accounts by when they signed in last.", "those who never did are new.", "deactivate accounts that nobody uses.",
        Sql("SELECT username AS \"User\", role AS \"Role\", is_active AS \"Active\", created_at AS \"Made\", last_login AS \"Signed in\" "
            "FROM analytics.accounts ORDER BY last_login DESC NULLS LAST LIMIT 100"),
        units={"Made": "dateTimeAsIso", "Signed in": "dateTimeAsIso"}, see="security",
    ),
    lines(
        "New accounts", "Accounts by the day on which they were made.", USE, "a burst is a script: see registrations on the dashboard of security.",
        Sql("SELECT $__timeGroupAlias(created_at, '1d'), count(*) AS accounts FROM analytics.accounts WHERE $__timeFilter(created_at) GROUP BY 1 ORDER BY 1", series=True),
        unit="short", width=HALF, see="security",
    ),
    bars(
        "Failures, by code", "Downloads that failed, by the code of their error.", "the videos' own, as not_found.",
        "the others are explained on the dashboard of downloads.",
        Sql(f"SELECT error_code, count(*) AS downloads {ASKED} AND error_code IS NOT NULL GROUP BY 1 ORDER BY 2 DESC LIMIT 15"),
        unit="short", see="downloads",
    ),
    table_of(
        "Waiting longest", "The jobs that wait longest, and for what.", "none, or seconds.",
        "egress: a way out is paused. disk: no room. Neither: all slots are taken, or those that its user may have.",
        Sql("SELECT state AS \"State\", waiting AS \"Waits for\", priority AS \"Priority\", tries AS \"Failures\", "
            "extract(epoch FROM now() - run_at) AS \"Due for\" FROM analytics.waiting WHERE state <> 'running' ORDER BY run_at LIMIT 25"),
        width=FULL, units={"Due for": "s"}, see="queue",
    ),
])  # fmt: skip

BOARD = Board(
    "analytics", "Analytics", "What the service is used for: videos, formats, qualities and users, from PostgreSQL.",
    [NOW, VIDEOS, KINDS, USERS], since="now-30d", sql=True,
)  # fmt: skip
