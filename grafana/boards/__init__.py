"""A module a dashboard, each with a `BOARD`; `ALL` has them in the order in which one looks at them."""

from grafana.board import Board
from grafana.boards import analytics, downloads, fetcher, http, overview, queue, security, servers, system

ALL: tuple[Board, ...] = tuple(
    module.BOARD for module in (overview, http, downloads, queue, fetcher, security, servers, system, analytics)
)
