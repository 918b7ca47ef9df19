"""One round of the product's own janitor, without its patience for files that nobody names yet.

`python sweep.py DATABASE_URL DATA_DIR`, in a process whose `ytdl` is the one under test; prints what was removed.
"""

import asyncio
import json
import sys
from pathlib import Path

from ytdl import db, janitor
from ytdl.storage import Storage


async def sweep(url: str, data: Path) -> dict[str, int]:
    janitor.ORPHAN_SECONDS = 0.0
    pool = db.DB(url, size=2)
    await pool.open()
    try:
        return await janitor.Janitor(pool, Storage(data)).sweep()
    finally:
        await pool.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(sweep(sys.argv[1], Path(sys.argv[2])))))
