"""Alertmanager's configuration, rendered from what admins have set: which alert goes to whom, when, and what is quiet.

`render` makes the text of the whole file; nothing is read from or written to anywhere. Texts of people end up in YAML
made by PyYAML and in matchers that are quoted; in what Alertmanager expands as a template there are none of theirs.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import yaml

from ytdl.channels import (
    Channel,
    Discord,
    Email,
    LabelMatch,
    NotificationRoute,
    QuietHours,
    Secrets,
    Settings,
    Slack,
    Sms,
    Telegram,
    Webhook,
)
from ytdl.config import Config

Document = dict[str, Any]
# An alert of this name tests the channel that its label `channel` names.
TEST_ALERT = "NotificationTest"
ESCALATION, DEAD_MAN, DOWN = "WarningUnacknowledged", "Watchdog", "InstanceDown"
NOBODY, QUIET = "nobody", "quiet"
# Where the templates lie, seen from the folder of the configuration.
TEMPLATES = "templates/*.tmpl"
TITLE, TEXT = '{{ template "ytdl.title" . }}', '{{ template "ytdl.text" . }}'
SLACK_TITLE = '{{ template "ytdl.slack.title" . }}'
SHORT = '{{ template "ytdl.short" . }}'
HTML, SLACK = '{{ template "ytdl.html" . }}', '{{ template "ytdl.slack" . }}'
# Of one notification by webhook.
MOST_ALERTS = 50
RECEIVER_PATH = "/api/v1/monitoring/receivers/sms/"
HEAD = "# Made by ytdl from what POST /api/v1/monitoring/config/notifications was given; edits will be overwritten.\n"
SHIPPED_HEAD = """\
# For an Alertmanager that is set up by hand: add integrations to the receivers, such as email_configs. Where
# ALERTMANAGER_CONFIG_FILE is set the service writes such a file itself, from what admins set. Print it anew with:
# ytdl config --alertmanager
"""


class LessSaid(NamedTuple):
    """While an alert named `cause` fires, those named `less` are not told of where the labels `equal` are the same, and
    where they have those of `only`. All have `equal`: a label that both lack would count as the same."""

    cause: str
    less: str
    equal: tuple[str, ...]
    only: tuple[tuple[str, str], ...] = ()


# Of one trouble, whatever says most of it.
LESS_SAID = (
    LessSaid("ThresholdCritical", "ThresholdWarning", ("metric", "instance", "job")),
    LessSaid("RedisDown", "RateLimiterDegraded", ("instance", "job")),
    LessSaid("RedisDown|DiskFull|ForkServerDown", "QueueStalled", ("job",)),
    LessSaid("DiskFull", "DiskWillFill", ("instance", "job")),
    LessSaid("DiskFull", "NotReady", ("instance", "job"), (("check", "disk"),)),
    LessSaid("DiskFull", "DownloadsPutOffForDisk", ("job",)),
    LessSaid("AllLanesPaused", "LanePaused|BotChecksRising", ("job",)),
)


@dataclass(frozen=True)
class Surroundings:
    """What the settings say: the mail server, whom to trust, and where Alertmanager reaches this service."""

    smtp_host: str = ""
    smtp_port: int = 587
    smtp_user: str = ""
    smtp_password: str = field(default="", repr=False)
    smtp_from: str = ""
    smtp_tls: bool = True
    ca_file: str = ""
    service_url: str = ""


def surroundings_of(config: Config) -> Surroundings:
    return Surroundings(
        smtp_host=config.smtp_host,
        smtp_port=config.smtp_port,
        smtp_user=config.smtp_user,
        smtp_password=config.smtp_password,
        smtp_from=config.smtp_from,
        smtp_tls=config.smtp_tls,
        ca_file=config.alertmanager_ca_file,
        service_url=(config.alertmanager_service_url or config.public_url).rstrip("/"),
    )


def render(
    settings: Settings, secrets: Secrets, around: Surroundings, templates: Mapping[str, bytes] | None = None
) -> str:
    """The whole file. Its last receiver is named after all the rest and after what is in the templates' files, so that
    it can be told which one is in force."""
    document = _document(settings, secrets, around)
    document["receivers"].append({"name": _digest(document, templates or {})})
    return HEAD + _dump(document)


def shipped() -> str:
    """What alertmanager/alertmanager.yml holds: everything in its place, and nobody to be told."""
    return SHIPPED_HEAD + _dump(_document(Settings(), {}, Surroundings()))


def name_of(text: str) -> str:
    """How the receiver is called that tells a rendered text from others."""
    return str(yaml.load(text, Loader=yaml.CSafeLoader)["receivers"][-1]["name"])


def _digest(document: Document, templates: Mapping[str, bytes]) -> str:
    found = hashlib.sha256(_dump(document).encode())
    for name in sorted(templates):
        found.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(templates[name]).digest())
    return "rendered-" + found.hexdigest()[:16]


def _dump(document: Document) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=False, width=120)


class _Dumper(yaml.SafeDumper):
    """Writes what stands in several places each time anew: Alertmanager reads no references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _document(settings: Settings, secrets: Secrets, around: Surroundings) -> Document:
    channels = {channel.name: channel for channel in settings.channels}
    one = {name: _integration(channel, secrets.get(name, {}), around) for name, channel in channels.items()}
    return {
        "global": _global(around),
        "templates": [TEMPLATES],
        "route": _root(settings),
        "inhibit_rules": _inhibitions(),
        **_intervals(settings.quiet_hours),
        "receivers": [
            {"name": NOBODY},
            _receiver("watchdog", [settings.dead_man.channel] if settings.dead_man else [], one),
            *(_receiver(f"route-{route.name}", route.channels, one) for route in settings.routes),
            # The end of a test is no news.
            *(_receiver(f"channel-{name}", [name], one, send_resolved=False) for name in channels),
        ],
    }


def _global(around: Surroundings) -> Document:
    found: Document = {"resolve_timeout": "5m"}
    if around.smtp_host:
        found |= {
            "smtp_smarthost": f"{_bracketed(around.smtp_host)}:{around.smtp_port}",
            "smtp_from": around.smtp_from,
            "smtp_require_tls": around.smtp_tls,
        }
    if around.smtp_host and around.smtp_user:
        found |= {"smtp_auth_username": around.smtp_user, "smtp_auth_password": around.smtp_password}
    return found


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


# routes


def _root(settings: Settings) -> Document:
    pace = settings.pace
    return {
        "receiver": NOBODY,
        "group_by": ["alertname", "job"],
        "group_wait": f"{pace.wait_seconds}s",
        "group_interval": f"{pace.interval_seconds}s",
        "repeat_interval": f"{pace.repeat_seconds}s",
        "routes": [_tests(settings), _dead_man(settings), *(_route(route, settings) for route in settings.routes)],
    }


def _tests(settings: Settings) -> Document:
    """Before all others, so that no route of an admin sees a test."""
    return {
        "receiver": NOBODY,
        "matchers": [_equals("alertname", TEST_ALERT)],
        "group_by": ["alertname", "channel", "test"],
        "group_wait": "0s",
        "group_interval": "10s",
        "repeat_interval": "1d",
        "routes": [
            {"receiver": f"channel-{channel.name}", "matchers": [_equals("channel", channel.name)]}
            for channel in settings.channels
        ],
    }


def _dead_man(settings: Settings) -> Document:
    every = settings.dead_man.every_seconds if settings.dead_man else 300
    return {
        "receiver": "watchdog",
        "matchers": [_equals("alertname", DEAD_MAN)],
        "group_wait": "0s",
        "group_interval": f"{every}s",
        # Shorter, as it is told of again at the first interval after this.
        "repeat_interval": f"{every // 2}s",
    }


def _route(route: NotificationRoute, settings: Settings) -> Document:
    pace, only_critical = settings.pace, route.severities == ["critical"]
    repeat = route.repeat_seconds or (pace.critical_repeat_seconds if only_critical else pace.repeat_seconds)
    severities = _equals("severity", route.severities[0])
    if len(route.severities) > 1:
        severities = f'severity=~"{"|".join(route.severities)}"'
    found: Document = {
        "receiver": f"route-{route.name}",
        "matchers": [severities, *map(_matcher, route.matchers)],
        "repeat_interval": f"{repeat}s",
        "continue": route.go_on,
    }
    if settings.quiet_hours is None:
        return found
    if _is_quiet(route):
        return found | {"mute_time_intervals": [QUIET]}
    # A warning that nobody was told of in the night is no reason to wake somebody.
    return found | {"routes": [{"matchers": [_equals("alertname", ESCALATION)], "mute_time_intervals": [QUIET]}]}


def _is_quiet(route: NotificationRoute) -> bool:
    return "critical" not in route.severities if route.quiet is None else route.quiet


def _equals(label: str, value: str) -> str:
    return _matcher(LabelMatch(label, value))


def _matcher(match: LabelMatch) -> str:
    value = match.value.replace("\\", "\\\\").replace('"', '\\"')
    return f'{match.label}{match.operator}"{value}"'


def _inhibitions() -> list[Document]:
    """What is left out of an inhibition is the alert that causes it, and those that must always be heard."""
    others = f'alertname!~"{DOWN}|{DEAD_MAN}|{TEST_ALERT}"'
    return [
        {
            "source_matchers": [_equals("severity", "critical")],
            "target_matchers": ['severity=~"warning|info"'],
            "equal": ["alertname", "job"],
        },
        {
            # A label that both lack counts as equal: who has no instance is not meant.
            "source_matchers": [_equals("alertname", DOWN)],
            "target_matchers": [others, 'instance!=""'],
            "equal": ["instance"],
        },
        *map(_inhibition, LESS_SAID),
    ]


def _inhibition(row: LessSaid) -> Document:
    return {
        "source_matchers": [_among(row.cause)],
        "target_matchers": [_among(row.less), *(_equals(*each) for each in row.only)],
        "equal": list(row.equal),
    }


def _among(names: str) -> str:
    return f'alertname=~"{names}"' if "|" in names else _equals("alertname", names)


def _intervals(quiet: QuietHours | None) -> Document:
    if quiet is None:
        return {}
    zone: Document = {} if quiet.time_zone == "UTC" else {"location": quiet.time_zone}
    spans = [(quiet.from_, quiet.until)]
    if quiet.from_ > quiet.until:
        spans = [(start, end) for start, end in ((quiet.from_, "24:00"), ("00:00", quiet.until)) if start != end]
    found = [{"times": [{"start_time": start, "end_time": end} for start, end in spans], **zone}]
    if quiet.weekends:
        found.append({"weekdays": ["saturday", "sunday"], **zone})
    return {"time_intervals": [{"name": QUIET, "time_intervals": found}]}


# receivers


def _receiver(
    name: str, channels: list[str], one: Mapping[str, tuple[str, Document]], *, send_resolved: bool = True
) -> Document:
    found: Document = {"name": name}
    for channel in dict.fromkeys(channels):
        kind, how = one[channel]
        resolved = send_resolved and how["send_resolved"]
        found.setdefault(f"{kind}_configs", []).append(how | {"send_resolved": resolved})
    return found


def _integration(channel: Channel, secrets: Mapping[str, str], around: Surroundings) -> tuple[str, Document]:
    """What Alertmanager calls it, and how it is told of it."""
    kind, how = _how(channel, secrets, around)
    return kind, how | {"send_resolved": channel.send_resolved}


def _how(channel: Channel, secrets: Mapping[str, str], around: Surroundings) -> tuple[str, Document]:
    match channel:
        case Email():
            mail = {"to": ", ".join(channel.to), "headers": {"Subject": TITLE}, "text": TEXT, "html": HTML}
            return "email", mail | ({"tls_config": {"ca_file": around.ca_file}} if around.ca_file else {})
        case Webhook():
            hook = {"url": secrets["url"], "max_alerts": MOST_ALERTS}
            return "webhook", hook | _http(around, secrets.get("token"))
        case Slack():
            said = {"title": SLACK_TITLE, "text": SLACK, "fallback": SLACK_TITLE, "title_link": ""}
            return "slack", {"api_url": secrets["url"], **said} | _http(around)
        case Discord():
            return "discord", {"webhook_url": secrets["url"], "title": TITLE, "message": SHORT} | _http(around)
        case Telegram():
            bot = {"bot_token": secrets["token"], "chat_id": channel.chat_id, "api_url": channel.api_url}
            # As plain text: what is cut off for its length is then still whole, and no text of an alert is markup.
            return "telegram", bot | {"message": f"{TITLE}\n\n{SHORT}", "parse_mode": ""} | _http(around)
        case Sms():
            own = {"url": around.service_url + RECEIVER_PATH + channel.name, "max_alerts": MOST_ALERTS}
            return "webhook", own | _http(around, secrets["receiver"])


def _http(around: Surroundings, token: str | None = None) -> Document:
    """Nobody may send Alertmanager on to another address."""
    found: Document = {"follow_redirects": False}
    if token:
        found["authorization"] = {"type": "Bearer", "credentials": token}
    if around.ca_file:
        found["tls_config"] = {"ca_file": around.ca_file}
    return {"http_config": found}
