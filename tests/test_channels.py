"""What an admin may write of who is told of alerts, and what Alertmanager is given of it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import watching
from tests.conftest import Person
from tests.instance import ROOT
from ytdl import alertmanager_file, channels, errors, notifications, routing
from ytdl.channels import MASK, Channel, DeadMan, NotificationRoute, Pace, QuietHours, Settings, Sms, Telegram, Webhook
from ytdl.config import Config
from ytdl.outbound import Outbound
from ytdl.routing import Surroundings

SHIPPED = ROOT / "alertmanager" / "alertmanager.yml"
# How long an example takes is the machine's matter.
patiently = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
SMS = {
    "kind": "sms",
    "name": "a",
    "account_sid": "AC" + "0" * 32,
    "auth_token": "t",
    "from": "+15550100",
    "to": ["+15550101"],
}
BOT = {"kind": "telegram", "name": "a", "chat_id": 1, "token": "1:abcdefghij"}


def parted(new: dict[str, Any], former: dict[str, Any] | None = None) -> tuple[Channel, dict[str, str]]:
    """What is kept of a channel after another of its name."""
    known, kept = (None, {}) if former is None else parted(former)
    return channels.part(msgspec.convert(new, Channel), known, kept, "channels[0]")


def checked(**settings: Any) -> None:
    """As for a change; raises what is wrong."""
    found, secrets = [], {}
    for i, each in enumerate(settings.pop("channels", [])):
        shown, own = channels.part(msgspec.convert(each, Channel), None, {}, f"channels[{i}]")
        found.append(shown)
        secrets[shown.name] = own
    whole = msgspec.convert(settings, Settings)
    channels.check(msgspec.structs.replace(whole, channels=found), secrets, Outbound(Config()).check)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"channels": [{"kind": "email", "name": "a b", "to": ["a@b.c"]}]}, "channels[0].name"),
        ({"channels": [{"kind": "email", "name": "a\n", "to": ["a@b.c"]}]}, "channels[0].name"),
        ({"channels": [{"kind": "email", "name": "a", "to": ["a@b.c"]}] * 2}, "channels[1].name"),
        ({"channels": [{"kind": "email", "name": "a", "to": ["a@b.c", "{{ .X }}@b.c"]}]}, "channels[0].to[1]"),
        ({"channels": [{"kind": "email", "name": "a", "to": ["a@b.c, d@e.f"]}]}, "channels[0].to[0]"),
        ({"channels": [{"kind": "email", "name": "a", "to": ["a@b.c\r\nBcc: d@e.f"]}]}, "channels[0].to[0]"),
        ({"channels": [{"kind": "webhook", "name": "a", "url": "http://example.org/"}]}, "channels[0].url"),
        ({"channels": [{"kind": "webhook", "name": "a", "url": "https://127.0.0.1/"}]}, "channels[0].url"),
        ({"channels": [{"kind": "slack", "name": "a", "url": "https://169.254.169.254/"}]}, "channels[0].url"),
        ({"channels": [{"kind": "discord", "name": "a", "url": "https://[::1]/"}]}, "channels[0].url"),
        ({"channels": [{"kind": "discord", "name": "a", "url": "https://[::1/"}]}, "channels[0].url"),
        ({"channels": [{"kind": "slack", "name": "a", "url": "https://a℀b/sec"}]}, "channels[0].url"),
        ({"channels": [{"kind": "webhook", "name": "a"}]}, "channels[0].url"),
        ({"channels": [{"kind": "webhook", "name": "a", "url": f"https://b.c/{MASK}"}]}, "channels[0].url"),
        ({"channels": [{"kind": "webhook", "name": "a", "url": "https://b.c/", "token": "a b"}]}, "channels[0].token"),
        ({"channels": [{"kind": "webhook", "name": "a", "url": "https://b.c/{{.CommonLabels.x}}"}]}, "channels[0].url"),
        ({"channels": [{"kind": "webhook", "name": "a", "url": "https://b.c/", "token": "{{"}]}, "channels[0].token"),
        ({"channels": [{"kind": "slack", "name": "a", "url": "https://{{x}}.c/"}]}, "channels[0].url"),
        ({"channels": [{"kind": "discord", "name": "a", "url": "https://b.c/?{{/*a*/}}"}]}, "channels[0].url"),
        ({"channels": [BOT | {"api_url": "https://b.c/{{.X}}"}]}, "channels[0].api_url"),
        ({"channels": [SMS | {"auth_token": "{{.X}}"}]}, "channels[0].auth_token"),
        ({"channels": [BOT | {"token": "1:a/../b?c=abcdefghij"}]}, "channels[0].token"),
        ({"channels": [BOT | {"api_url": "https://10.0.0.1"}]}, "channels[0].api_url"),
        ({"channels": [SMS | {"account_sid": "AC/../x"}]}, "channels[0].account_sid"),
        ({"channels": [SMS | {"to": ["+15550101", "911"]}]}, "channels[0].to[1]"),
        ({"channels": [SMS | {"from": "me"}]}, "channels[0].from"),
        ({"routes": [{"name": "a", "channels": ["b"]}]}, "routes[0].channels[0]"),
        ({"routes": [{"name": "a"}, {"name": "a"}]}, "routes[1].name"),
        ({"routes": [{"name": "a", "matchers": [{"label": "a-b", "value": "c"}]}]}, "routes[0].matchers[0].label"),
        ({"routes": [{"name": "a", "matchers": [{"label": "a", "value": "b\n"}]}]}, "routes[0].matchers[0].value"),
        ({"routes": [{"name": "a", "repeat_seconds": 60}]}, "routes[0].repeat_seconds"),
        ({"pace": {"interval_seconds": 3600, "repeat_seconds": 7199}}, "pace.repeat_seconds"),
        ({"pace": {"interval_seconds": 1801}}, "pace.critical_repeat_seconds"),
        ({"dead_man": {"channel": "a"}}, "dead_man.channel"),
        ({"quiet_hours": {"from": "24:00"}}, "quiet_hours.from"),
        ({"quiet_hours": {"until": "8:00"}}, "quiet_hours.until"),
        ({"quiet_hours": {"until": "20:00"}}, "quiet_hours.until"),
        ({"quiet_hours": {"time_zone": "../etc"}}, "quiet_hours.time_zone"),
    ],
)  # fmt: skip
def test_the_field_that_is_wrong_is_named(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        checked(**settings)
    assert [fault.field for fault in caught.value.faults] == [field]


@patiently
@given(st.text(max_size=12), st.sampled_from(["webhook", "slack", "discord"]))
def test_an_address_is_right_or_named_whatever_it_says(text: str, kind: str) -> None:
    try:
        checked(channels=[{"kind": kind, "name": "a", "url": f"https://{text}"}])
    except errors.Invalid as refused:
        assert [fault.field for fault in refused.faults] == ["channels[0].url"]


@patiently
@given(st.text("[]:@/%℀{1a.", max_size=12))
def test_an_address_of_odd_characters_is_right_or_named(text: str) -> None:
    try:
        checked(channels=[BOT | {"api_url": f"https://{text}"}, HOOK | {"name": "b", "url": f"https://{text}"}])
    except errors.Invalid as refused:
        assert [fault.field for fault in refused.faults] == ["channels[0].api_url"]


def test_what_is_right_is_taken() -> None:
    hook = {"kind": "webhook", "name": "a-1", "url": "https://example.org/x?y=z", "token": "t"}
    checked(channels=[hook, SMS, BOT | {"name": "b"}], routes=[{"name": "r", "channels": ["a-1"]}])


HOOK = {"kind": "webhook", "name": "a"}
FIRST, SECOND = "https://b.c/1", "https://b.c/2"


@pytest.mark.parametrize(
    ("former", "new", "kept"),
    [
        ({"url": FIRST, "token": "t"}, {}, {"url": FIRST, "token": "t"}),
        ({"url": FIRST, "token": "t"}, {"url": f"https://b.c/{MASK}", "token": MASK}, {"url": FIRST, "token": "t"}),
        ({"url": FIRST, "token": "t"}, {"token": None}, {"url": FIRST}),
        ({"url": FIRST, "token": "t"}, {"token": "u"}, {"url": FIRST, "token": "u"}),
        ({"url": FIRST}, {"url": SECOND}, {"url": SECOND}),
    ],
)
def test_a_secret_that_is_not_given_again_is_kept(
    former: dict[str, Any], new: dict[str, Any], kept: dict[str, str]
) -> None:
    shown, secrets = parted(HOOK | new, HOOK | former)
    assert secrets == kept
    assert (
        isinstance(shown, Webhook)
        and str(shown.url).endswith(MASK)
        and shown.token == (MASK if "token" in kept else None)
    )


@pytest.mark.parametrize(
    ("former", "new"),
    [
        (HOOK | {"url": FIRST, "token": "t"}, HOOK | {"url": "https://evil.example/1"}),
        (BOT, BOT | {"api_url": "https://evil.example", "token": MASK}),
        (SMS, SMS | {"account_sid": "AC" + "1" * 32, "auth_token": MASK}),
    ],
)  # fmt: skip
def test_a_secret_is_not_had_by_naming_another_server(former: dict[str, Any], new: dict[str, Any]) -> None:
    with pytest.raises(errors.Invalid, match="must be given again"):
        parted(new, former)


def test_a_channel_of_another_kind_keeps_nothing() -> None:
    former = {"kind": "slack", "name": "a", "url": "https://b.c/1"}
    with pytest.raises(errors.Invalid, match="is missing"):
        parted({"kind": "discord", "name": "a"}, former)


@pytest.mark.parametrize(
    "said",
    [
        "cannot use https://b.c/hooks/secret-path-1234 here", "bad https://b.c/hooks/secret-p", "'token-0987654'",
        "at token-0",
    ],
)  # fmt: skip
def test_no_piece_of_a_secret_is_told(said: str) -> None:
    found = notifications.scrub(said, {"a": {"url": "https://b.c/hooks/secret-path-1234", "token": "token-0987654"}})
    assert "secret-p" not in found and "token-0" not in found and MASK in found


# Alertmanager's own word for what is rendered.


def amtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(watching.AMTOOL), *arguments], check=False, capture_output=True, text=True, timeout=60)


def everything() -> str:
    found: list[Channel] = [
        channels.Email(name="mail", to=["a@example.org", "b@example.org"]), Webhook(name="hook", url=MASK),
        channels.Slack(name="slack", url=MASK), channels.Discord(name="discord", url=MASK),
        Telegram(name="telegram", chat_id=-5, token=MASK), Sms(name="sms", account_sid="", from_="", to=[]),
    ]  # fmt: skip
    secrets = {
        "hook": {"url": "https://a.example/b", "token": "t: # {{ \"'"}, "slack": {"url": "https://a.example/c"},
        "discord": {"url": "https://a.example/d"}, "telegram": {"token": "1:abcdefghij"}, "sms": {"receiver": "r"},
    }  # fmt: skip
    routes = [
        NotificationRoute(name="night", severities=["critical"], channels=["sms", "mail"], go_on=True),
        NotificationRoute(
            name="queue", matchers=[channels.LabelMatch("alertname", "Queue.*", "=~")], channels=["slack"]
        ),
        NotificationRoute(name="rest", severities=["warning", "info"], channels=["mail"]),
    ]
    quiet = QuietHours(from_="12:00", until="13:30", weekends=False, time_zone="Europe/Berlin")
    settings = Settings(channels=found, routes=routes, quiet_hours=quiet, dead_man=DeadMan(channel="hook"), pace=Pace())
    around = Surroundings("::1", 465, "user", "pass: word", "ytdl@example.org", True, "", "http://ytdl:8000")
    return routing.render(settings, secrets, around)


@pytest.fixture
def rendered(tmp_path: Path) -> Path:
    (tmp_path / "templates").mkdir()
    for template in alertmanager_file.TEMPLATES.glob("*.tmpl"):
        (tmp_path / "templates" / template.name).write_text(template.read_text())
    (tmp_path / "alertmanager.yml").write_text(everything())
    return tmp_path / "alertmanager.yml"


@watching.needs_alertmanager
def test_alertmanager_takes_what_is_rendered(rendered: Path) -> None:
    done = amtool("check-config", str(rendered))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 receivers" in done.stdout and "1 templates" in done.stdout


@watching.needs_alertmanager
@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ("alertname=A severity=critical", "route-night"),
        ("alertname=QueueStalled severity=critical", "route-night,route-queue"),
        ("alertname=QueueStalled severity=info", "route-queue"),
        ("alertname=A severity=warning", "route-rest"),
        ("alertname=WarningUnacknowledged severity=critical", "route-night"),
        ("alertname=Watchdog severity=critical", "watchdog"),
        ("alertname=NotificationTest severity=info channel=slack", "channel-slack"),
        ("alertname=NotificationTest severity=critical channel=other", "nobody"),
        ("alertname=A severity=none", "nobody"),
        ("alertname=A", "nobody"),
    ],
)
def test_each_alert_goes_where_it_should(rendered: Path, labels: str, receivers: str) -> None:
    done = amtool(
        "config", "routes", "test", f"--config.file={rendered}", f"--verify.receivers={receivers}", *labels.split()
    )
    assert done.returncode == 0, done.stdout + done.stderr


@watching.needs_alertmanager
@pytest.mark.parametrize(
    ("labels", "receivers"),
    [
        ("alertname=A severity=critical job=ytdl", "route-critical"),
        ("alertname=A severity=warning job=ytdl", "route-warning"),
        ("alertname=A severity=info job=ytdl", "route-info"),
        ("alertname=Watchdog severity=none", "watchdog"),
        ("alertname=A", "nobody"),
    ],
)
def test_what_is_shipped_sorts_by_severity(labels: str, receivers: str) -> None:
    done = amtool(
        "config", "routes", "test", f"--config.file={SHIPPED}", f"--verify.receivers={receivers}", *labels.split()
    )
    assert done.returncode == 0, done.stdout + done.stderr


@watching.needs_alertmanager
def test_what_is_shipped_is_taken() -> None:
    done = amtool("check-config", str(SHIPPED))
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_shipped_is_what_is_rendered_before_anything_is_set() -> None:
    assert SHIPPED.read_text() == routing.shipped()


def test_nights_and_weekends_are_quiet_but_for_critical_alerts() -> None:
    found = yaml.safe_load(SHIPPED.read_text())
    (quiet,) = found["time_intervals"]
    assert quiet["time_intervals"][0]["times"] == [
        {"start_time": "20:00", "end_time": "24:00"}, {"start_time": "00:00", "end_time": "08:00"},
    ]  # fmt: skip
    muted = {route["receiver"]: route.get("mute_time_intervals") for route in found["route"]["routes"]}
    assert muted["route-warning"] == muted["route-info"] == ["quiet"] and muted["route-critical"] is None


@patiently
@given(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=200))
def test_no_value_of_a_label_breaks_out_of_its_matcher(value: str) -> None:
    """As YAML reads it, it is one text, whose quotes end where the value ends."""
    route = NotificationRoute(name="a", matchers=[channels.LabelMatch("a", value)])
    found = yaml.safe_load(routing.render(Settings(routes=[route]), {}, Surroundings()))
    matcher = found["route"]["routes"][2]["matchers"][1]
    inside = re.fullmatch(r'a="((?:[^"\\]|\\["\\])*)"', matcher)
    assert inside and re.sub(r"\\(.)", r"\1", inside[1]) == value


def test_a_configuration_is_known_by_the_name_of_its_last_receiver() -> None:
    one, other = routing.render(Settings(), {}, Surroundings()), everything()
    assert routing.name_of(one) != routing.name_of(other)
    assert routing.name_of(one) == routing.name_of(routing.render(Settings(), {}, Surroundings()))


async def test_a_service_without_the_setting_says_so(root: Person) -> None:
    for answer in (
        await root.get("/monitoring/config/notifications"),
        await root.post("/monitoring/config/notifications", {"test": True}),
    ):
        assert answer.status == 503 and "ALERTMANAGER_CONFIG_FILE" in (await answer.json())["detail"]
