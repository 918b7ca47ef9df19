"""Alertmanager's file in its place, what was there set aside, and what the operator had kept for ever."""

import stat
from pathlib import Path

import pytest

from ytdl import alertmanager_file, routing
from ytdl.channels import Settings, Webhook

MINE = "# mine\nroute: {receiver: me}\nreceivers: [{name: me}]\n"
HOOK = Webhook(name="hook", url="https://hooks.example/***")


def rendered(*channels: Webhook) -> str:
    secrets = {channel.name: {"url": "https://hooks.example/x"} for channel in channels}
    return routing.render(Settings(channels=list(channels)), secrets, routing.Surroundings())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "alertmanager.yml"
    file.write_text(MINE)
    file.chmod(0o644)
    return file


def left(path: Path) -> list[Path]:
    return list(path.parent.glob(".*"))


@pytest.mark.parametrize("linking", [True, False])
def test_what_is_put_back_is_the_very_file(path: Path, linking: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its owner and mode, also where the system does not let another than its owner link it."""
    if not linking:
        monkeypatch.setattr(Path, "hardlink_to", lambda *_: (_ for _ in ()).throw(PermissionError()))
    before = path.stat().st_ino
    alertmanager_file.write(path, rendered(), {})
    assert path.stat().st_ino != before and stat.S_IMODE(path.stat().st_mode) == 0o600
    alertmanager_file.put_back(path)
    assert path.stat().st_ino == before and path.read_text() == MINE and not left(path)


def test_whoever_died_before_it_was_taken_has_changed_nothing(path: Path) -> None:
    before = path.stat().st_ino
    alertmanager_file.write(path, rendered(HOOK), {})
    alertmanager_file.write(path, rendered(), {})
    alertmanager_file.put_back(path)
    assert path.stat().st_ino == before


def test_what_is_settled_is_not_put_back(path: Path) -> None:
    alertmanager_file.write(path, rendered(), {})
    alertmanager_file.settle(path)
    alertmanager_file.put_back(path)
    assert path.read_text() == rendered() and not left(path)


def test_the_operators_first_file_is_never_replaced(path: Path) -> None:
    """Neither by an empty one nor by another, which is kept beside it, once."""
    for text in (MINE, "", " \n", "another", MINE, "another", "third"):
        path.write_text(text)
        alertmanager_file.write(path, rendered(), {})
        alertmanager_file.settle(path)
    kept = sorted(path.parent.glob("*.before-ytdl*"))
    assert kept[0].name == "alertmanager.yml.before-ytdl" and kept[0].read_text() == MINE
    assert sorted(file.read_text() for file in kept[1:]) == ["another", "third"]


def test_no_more_than_some_of_the_operators_files_are_kept(path: Path) -> None:
    for n in range(alertmanager_file.MOST_KEPT + 5):
        path.write_text(f"number {n}")
        alertmanager_file.write(path, rendered(), {})
        alertmanager_file.settle(path)
    assert len(list(path.parent.glob("*.before-ytdl-*"))) == alertmanager_file.MOST_KEPT


def test_templates_may_be_read_by_whoever_reads_the_file(path: Path) -> None:
    alertmanager_file.write(path, rendered(), {"ytdl.tmpl": b"{{ . }}"})
    template = path.parent / "templates" / "ytdl.tmpl"
    assert template.read_bytes() == b"{{ . }}" and stat.S_IMODE(template.stat().st_mode) == 0o644


@pytest.mark.parametrize(
    ("text", "told"),
    [(rendered(HOOK), True), (rendered(), False), (MINE, False), ("", False), (routing.HEAD + "[", False)],
)  # fmt: skip
def test_a_file_of_ours_tells_somebody_or_nobody(path: Path, text: str, told: bool) -> None:
    path.write_text(text)
    assert alertmanager_file.tells_somebody(path) is told
