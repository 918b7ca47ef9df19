"""Pictures of dashboards from live results: `python -m tests.pictures overview queue` writes docs/pictures.

The whole service runs with people at work, a real Prometheus scrapes it each half second, and each panel's queries are
asked over the last minute or so. Times are as the drill has them: a rate is over seconds, not minutes.
"""

import asyncio
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests import dashboards
from tests.drawing import Answers, picture
from tests.drill.ground import Ground, prepared
from tests.drill.load import mixed
from tests.drill.people import Admin
from tests.drill.scaling import Scale
from tests.instance import ROOT

FOLDER = ROOT / "docs/pictures"
LOAD_SECONDS, WINDOW_SECONDS, RATE = 90.0, 75.0, "8s"


async def answers(ground: Ground, dashboard: dict[str, Any], until: float) -> Answers:
    """What each query of Prometheus' finds over the window; those of PostgreSQL are left out."""
    return {
        (panel["id"], target["refId"]): await _asked(ground, target, until)
        for panel in dashboards.panels(dashboard)
        for target in panel["targets"]
        if "expr" in target
    }


async def _asked(ground: Ground, target: dict[str, Any], until: float) -> list[Any]:
    expression = dashboards.prom(target["expr"], RATE, f"{WINDOW_SECONDS:.0f}s")
    begin = until if target["instant"] else until - WINDOW_SECONDS
    found = await ground.prometheus.get(
        "/api/v1/query_range", query=expression, start=f"{begin}", end=f"{until}", step="1"
    )
    return [
        (one["metric"], [(float(t), float(value)) for t, value in one["values"]]) for one in found["data"]["result"]
    ]


async def draw(names: list[str]) -> None:
    with tempfile.TemporaryDirectory(prefix="ytdl-pictures-", ignore_cleanup_errors=True) as folder:
        async with prepared(Path(folder), Scale(factor=1, pace=30)) as ground:
            async with mixed(ground, Admin(ground)):
                await asyncio.sleep(LOAD_SECONDS)
                now = time.time()
            FOLDER.mkdir(exist_ok=True)
            for name in names:
                found = await answers(ground, dashboards.DASHBOARDS[name], now)
                (FOLDER / f"{name}.svg").write_text(picture(dashboards.DASHBOARDS[name], found))
                print(f"Wrote docs/pictures/{name}.svg.")


if __name__ == "__main__":
    asyncio.run(draw(sys.argv[1:] or ["overview", "queue"]))
