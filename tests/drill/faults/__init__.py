"""Every fault of the drill, in the order in which it is tried; a module a part of the product."""

from tests.drill.fault import FAULTS
from tests.drill.faults import accounts, database, fetcher, host, monitoring, queue, redis, service

__all__ = ["FAULTS", "accounts", "database", "fetcher", "host", "monitoring", "queue", "redis", "service"]
