"""The database of a service that is running: for commands beside it, which cannot have its data folder."""

from pathlib import Path
from urllib.parse import quote

from ytdl.embedded.postgres import DATABASE


def running_database_url(data_dir: Path) -> str:
    """`run` may be a link to a short folder, as the path of a socket is limited; so its target is named."""
    sockets = (data_dir / "run").resolve() / "pg"
    return f"postgresql://postgres@/{DATABASE}?host={quote(str(sockets), safe='')}"
