"""`python -m grafana.build` writes `grafana/dashboards/*.json`; with `--check` it only says which differ.

`--runbooks URL --into FOLDER` writes dashboards whose links to runbooks lead elsewhere, for an installation.
"""

import argparse
import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from grafana.board import RUNBOOKS
from grafana.boards import ALL

FOLDER = Path(__file__).parent / "dashboards"


def texts(runbooks: str = RUNBOOKS) -> dict[str, str]:
    """What the files hold, by their names."""
    return {
        f"{board.name}.json": json.dumps(board.build(runbooks), cls=JSONEncoder, indent=2, sort_keys=True) + "\n"
        for board in ALL
    }


def stale() -> list[str]:
    """The files that are not what would be written, are missing, or are no dashboards of ours any more."""
    made, kept = texts(), {path.name: path.read_text() for path in FOLDER.glob("*.json")}
    return sorted(name for name in made.keys() | kept.keys() if made.get(name) != kept.get(name))


def write(folder: Path, runbooks: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts(runbooks).items():
        (folder / name).write_text(text)


def main() -> int:
    parser = argparse.ArgumentParser("python -m grafana.build", description="Write the dashboards' files.")
    parser.add_argument("--check", action="store_true", help="only say which are not what would be written")
    parser.add_argument("--into", type=Path, default=FOLDER, metavar="FOLDER", help="where to write them")
    parser.add_argument("--runbooks", default=RUNBOOKS, metavar="URL", help="where docs/runbooks can be read")
    arguments = parser.parse_args()
    if not arguments.check:
        write(arguments.into, arguments.runbooks.rstrip("/"))
        return 0
    for name in stale():
        print(f"{name} is not what `make dashboards` writes", file=sys.stderr)
    return 1 if stale() else 0


if __name__ == "__main__":
    sys.exit(main())
