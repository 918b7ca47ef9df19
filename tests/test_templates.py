"""The links in messages, as Alertmanager's own templates make them: there where they lead somewhere."""

import json
import subprocess
from pathlib import Path

import pytest

from tests.instance import ROOT
from tests.watching import AMTOOL, needs_alertmanager

TEMPLATES = ROOT / "alertmanager" / "templates" / "ytdl.tmpl"
BOOK = "https://git.example/runbooks/queue.md#a"
BOARD = "https://grafana.example/d/ytdl-queue"
every_form = pytest.mark.parametrize("form", ["short", "text", "slack", "html"])


def message(folder: Path, form: str, **links: str) -> str:
    alert = {
        "status": "firing", "labels": {"alertname": "A", "severity": "warning"},
        "annotations": {"summary": "It is so", **links}, "startsAt": "2026-01-02T03:04:05Z",
    }  # fmt: skip
    (folder / "data.json").write_text(json.dumps({"status": "firing", "alerts": [alert]}))
    command = [
        str(AMTOOL), "template", "render", f"--template.glob={TEMPLATES}", f"--template.data={folder}/data.json",
        f'--template.text={{{{ template "ytdl.{form}" . }}}}',
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@needs_alertmanager
@every_form
def test_links_that_lead_somewhere_are_in_the_message(tmp_path: Path, form: str) -> None:
    said = message(tmp_path, form, runbook_url=BOOK, dashboard_url=BOARD)
    assert BOOK in said and BOARD in said


@needs_alertmanager
@every_form
def test_a_dashboard_without_grafana_is_left_out(tmp_path: Path, form: str) -> None:
    said = message(tmp_path, form, runbook_url=BOOK, dashboard_url="/d/ytdl-queue")
    assert "It is so" in said and BOOK in said
    assert "ashboard" not in said and "/d/" not in said


@needs_alertmanager
@every_form
def test_a_runbook_that_is_only_a_file_is_named_and_not_linked(tmp_path: Path, form: str) -> None:
    said = message(tmp_path, form, runbook_url="docs/runbooks/queue.md#a", dashboard_url=BOARD)
    assert "Runbook: docs/runbooks/queue.md#a" in said
    assert 'href="docs' not in said
