"""The API: what is asked, how fast and how well it is answered, streams, limits."""

from grafana.board import Board, Row
from grafana.panels import FULL, HALF, Prom, heatmap_of, lines, number, table_of

# A series of a status begins with its first answer, which no growth sees, so what failed is counted by itself. No two of
# these have the same labels: `or` leaves out none.
OF_ROUTES = (
    'sum by (route) (increase(ytdl_http_requests_total{status!~"5.."}[$__range]) '
    "or increase(ytdl_http_failures_total[$__range])) > 0"
)
ROUTE_SECONDS = "sum by (le, route) (rate(ytdl_http_request_seconds_bucket[$__rate_interval]))"
LIMIT = "the limit of a user is RATE_LIMIT_PER_MINUTE; give those who need more a limit of their own."

NOW = Row("Now", [
    number(
        "Requests", "Requests that are answered in a second.", "what your users make.",
        "none at all means that nobody reaches the service.",
        Prom("sum(rate(ytdl_http_requests_total[$__rate_interval]))"), unit="reqps", least=0,
    ),
    number(
        "Within 200 ms", "The part of simple requests that were answered within 200 ms, over five minutes and all instances: what hashes a password, reports and monitoring do not count.",
        "99% and more, the objective.", "see the slowest routes below, then the database's times on the dashboard of the servers.",
        Prom('1 - max(ytdl:objective_errors:ratio_rate5m{objective="latency"})'),
        unit="percentunit", bad=(0.95, 0.99), low=True, most=1, see="servers", runbook=("objectives#LatencyBudgetBurn",),
    ),
    number(
        "Answers with 5xx", "The part of answers that were errors of the service, over five minutes and all instances: probes, addresses that do not exist and monitoring do not count.", "under 0.1%, the objective.",
        "see which routes below; the log has each by its request id.",
        Prom('max(ytdl:objective_errors:ratio_rate5m{objective="availability"})'),
        unit="percentunit", bad=(0.001, 0.01), least=0, runbook=("objectives#AvailabilityBudgetBurn",),
    ),
    number(
        "In flight", "Requests that are being answered at this moment.", "a few.",
        "growing means that something they wait for does not answer.",
        Prom("sum(ytdl_http_in_flight)"), unit="none", least=0, see="servers",
    ),
])  # fmt: skip

ROUTES = Row("Routes", [
    lines(
        "Requests, by route", "The ten routes that are asked most, in requests a second.", "as your users ask.",
        "one that rises alone is one client, or one page that asks too often.",
        Prom("topk(10, sum by (route) (rate(ytdl_http_requests_total[$__rate_interval])))", "{{route}}"), unit="reqps",
    ),
    lines(
        "Answers, by status", "Answers in a second, by status.", "mostly 200, 201 and 304.",
        "401 and 403 that rise are guesses, 429 are limits, 5xx are faults of the service.",
        Prom('sum by (status) (rate(ytdl_http_requests_total{status!~"5.."}[$__rate_interval])) > 0 or sum by (status) (ytdl_http_in_flight * 0)', "{{status}}"),
        Prom("sum(rate(ytdl_http_failures_total[$__rate_interval]))", "5xx"),
        unit="reqps", stacked=True,
    ),
    table_of(
        "Each route", "Each route over the whole window: requests, the part with 5xx, and the time within which 95 of 100 were answered.",
        "no errors, and under 200 ms but for what hashes a password.",
        "a route that is slow alone: look at its queries; all of them: at the database and the event loop.",
        Prom(OF_ROUTES, "requests"),
        Prom(f"sum by (route) (increase(ytdl_http_failures_total[$__range])) / ({OF_ROUTES})"),
        Prom("histogram_quantile(0.95, sum by (le, route) (increase(ytdl_http_request_seconds_bucket[$__range]))) > 0"),
        width=FULL, columns={"route": "Route", "Value #A": "Requests", "Value #B": "With 5xx", "Value #C": "95% within"},
        units={"Requests": "short", "With 5xx": "percentunit", "95% within": "s"},
    ),
    lines(
        "Slowest routes", "Of the ten slowest routes, the time within which 95 of 100 requests are answered.",
        "under 200 ms; sign-ins take longer, for hashing a password is meant to.",
        "compare with the times of the database's queries and the lag of the event loop.",
        Prom(f"topk(10, histogram_quantile(0.95, {ROUTE_SECONDS}))", "{{route}}"), unit="s", bad=(0.2, 1), see="servers", runbook=("service#RequestsTooSlow",),
    ),
    heatmap_of(
        "Times of answers", "How many requests took how long: dark is many.", "a dark band far below 200 ms.",
        "a second band means that one kind of request, or one instance, is slow: choose it above.",
        Prom("sum by (le) (increase(ytdl_http_request_seconds_bucket[$__rate_interval]))", "{{le}}"), unit="s",
    ),
    lines(
        "Problems, by code", "Problems answered in a second, by their code.", "few; those of clients vary.",
        "internal and unavailable are faults of the service: its log has each by request id.",
        Prom("sum by (code) (rate(ytdl_http_errors_total[$__rate_interval]))", "{{code}}"), unit="reqps", runbook=("service#HighErrorRatio",),
    ),
    lines(
        "Connections closed for being slow", "Clients that sent or took too little, by what was under way, in a minute.", "near 0.",
        "many may be an attempt to hold all connections; the proxy in front has limits as well.",
        Prom("60 * sum by (what) (rate(ytdl_http_too_slow_total[$__rate_interval]))", "{{what}}"), unit="none",
    ),
])  # fmt: skip

STREAMS = Row("Streams of progress", [
    lines(
        "Open streams", "Progress streams that are open, by kind.", "about as many as there are pages open.",
        "falling to 0 at once is a restart or a proxy that closes idle connections.",
        Prom("sum by (kind) (ytdl_streams_open)", "{{kind}}"), unit="none", stacked=True,
    ),
    lines(
        "Events", "Events that are published in a second: for all processes, or for readers of the same one because Redis is away; and those dropped for slow readers.",
        "no local ones, none dropped.", "local ones: look at Redis. Dropped ones: readers on bad lines; they get the newest state later.",
        Prom("sum by (outcome) (rate(ytdl_events_published_total[$__rate_interval]))", "{{outcome}}"),
        Prom("sum(rate(ytdl_streams_dropped_total[$__rate_interval]))", "dropped"), unit="ops", see="servers", runbook=("service#StreamsDropping",),
    ),
])  # fmt: skip

LIMITS = Row("Rate limits", [
    lines(
        "Refused by limits", "Requests refused in a second, by the policy that had nothing left.", "0, or some of scripts.", LIMIT,
        Prom("sum by (policy) (rate(ytdl_ratelimit_denied_total[$__rate_interval]))", "{{policy}}"), unit="reqps", see="security",
    ),
    lines(
        "Allowed by limits", "Requests that were allowed in a second, by where they were counted, and those allowed in blocks that nobody made use of.",
        "nearly all counted in Redis.", "counted in the process means that Redis does not answer; limits then hold in each process.",
        Prom("sum by (where) (rate(ytdl_ratelimit_leased_total[$__rate_interval]))", "in {{where}}"),
        Prom("sum(rate(ytdl_ratelimit_forgotten_total[$__rate_interval]))", "not used"), unit="reqps", see="servers",
    ),
    number(
        "Counting alone", "Instances that count requests by themselves because Redis does not answer.", "0.",
        "bring Redis back; meanwhile several processes together let several times as much pass.",
        Prom("sum(ytdl_ratelimit_degraded)"), unit="none", bad=(1,), least=0, width=HALF, runbook=("security#RateLimiterDegraded",),
    ),
])  # fmt: skip

BOARD = Board(
    "http", "API", "What is asked of the API, how fast and how well it is answered, its streams and limits.",
    [NOW, ROUTES, STREAMS, LIMITS],
)  # fmt: skip
