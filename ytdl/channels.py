"""Who is told of alerts, and by which way: what an admin may write of that, and what of it is a secret.

Types with their limits, the rules that a type cannot hold, and the parting of a channel into what may be shown and what
is sealed. How it becomes Alertmanager's configuration is `routing`'s, how it is kept and comes into force
`notifications`'.
"""

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import UNSET, Meta, UnsetType

from ytdl import errors
from ytdl.hidden import Hidden

MASK = "********"
MOST_CHANNELS = 20
MOST_ROUTES = 20
NAME = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
LABEL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CLOCK = re.compile(r"(?:[01]\d|2[0-3]):[0-5]\d")
ZONE = re.compile(r"[A-Za-z0-9_+-]+(?:/[A-Za-z0-9_+-]+)*")
# The plain form, of which there is no other way to read it: no comments, no quotes, nothing of a template.
MAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`|~-]{1,64}@[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
PHONE = re.compile(r"\+[1-9]\d{6,14}")
ACCOUNT = re.compile(r"AC[0-9a-f]{32}")
BOT = re.compile(r"\d{1,20}:[A-Za-z0-9_-]{10,200}")
PRINTABLE = re.compile(r"[\x21-\x7e]+")
TELEGRAM = "https://api.telegram.org"

Severity = Literal["critical", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
Name = Annotated[str, Meta(max_length=40, extra_json_schema={"pattern": f"^{NAME.pattern}$"})]
Kept = Annotated[str, Meta(max_length=2048, description="Left out, or as it is shown: what is kept stays.")]
Url = Annotated[str, Meta(max_length=2048)]


class Email(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="email"):
    """By the server that the settings SMTP_HOST and so on name."""

    name: Name
    to: Annotated[list[Annotated[str, Meta(max_length=254)]], Meta(min_length=1, max_length=20)]
    send_resolved: bool = True


class Webhook(
    Hidden, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="webhook"
):
    """Gets Alertmanager's own JSON; `token`, if there is one, as a Bearer token."""

    name: Name
    url: Kept | UnsetType = UNSET
    token: Kept | UnsetType | None = UNSET
    send_resolved: bool = True


class Slack(
    Hidden, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="slack"
):
    """`url` is that of an incoming webhook."""

    name: Name
    url: Kept | UnsetType = UNSET
    send_resolved: bool = True


class Discord(
    Hidden, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="discord"
):
    """`url` is that of a channel's webhook."""

    name: Name
    url: Kept | UnsetType = UNSET
    send_resolved: bool = True


class Telegram(
    Hidden, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="telegram"
):
    """`token` is a bot's; `api_url` is another than Telegram's where the Bot API is somebody's own."""

    name: Name
    chat_id: Annotated[int, Meta(ge=-(2**53), le=2**53)]
    token: Kept | UnsetType = UNSET
    api_url: Url = TELEGRAM
    send_resolved: bool = True


class Sms(
    Hidden, msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="sms",
    rename={"from_": "from"},
):  # fmt: skip
    """By Twilio: the account, a number of its own, and who is written to, as numbers like +15550100200."""

    name: Name
    account_sid: Annotated[str, Meta(max_length=34)]
    auth_token: Kept | UnsetType = UNSET
    from_: Annotated[str, Meta(max_length=16)]
    to: Annotated[list[Annotated[str, Meta(max_length=16)]], Meta(min_length=1, max_length=10)]
    send_resolved: bool = False


Channel = Email | Webhook | Slack | Discord | Telegram | Sms
# Per kind: what is a secret, what of that may be missing, and to whom it is given, so that it never goes elsewhere.
SECRETS: dict[str, tuple[str, ...]] = {
    "email": (), "webhook": ("url", "token"), "slack": ("url",), "discord": ("url",), "telegram": ("token",),
    "sms": ("auth_token",),
}  # fmt: skip
OPTIONAL = {("webhook", "token")}
GIVEN_TO = {("webhook", "token"): "url", ("telegram", "token"): "api_url", ("sms", "auth_token"): "account_sid"}


class LabelMatch(Hidden, msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A label of an alert; regular expressions (`=~`, `!~`) have to match the whole value."""

    label: Annotated[str, Meta(max_length=64)]
    value: Annotated[str, Meta(max_length=200)]
    operator: Literal["=", "!=", "=~", "!~"] = "="


class NotificationRoute(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Alerts of these severities that meet all matchers go to these channels, and, unless `go_on`, no further route.

    `quiet` keeps them for the end of quiet hours; left out, that is done where no critical ones are among them.
    `repeat_seconds` is after how long an alert that goes on is told of again; left out, that is the pace's.
    """

    name: Name
    severities: Annotated[list[Severity], Meta(min_length=1, max_length=3)] = msgspec.field(
        default_factory=lambda: list(SEVERITIES)
    )
    matchers: Annotated[list[LabelMatch], Meta(max_length=10)] = msgspec.field(default_factory=list)
    channels: Annotated[list[Name], Meta(max_length=MOST_CHANNELS)] = msgspec.field(default_factory=list)
    quiet: bool | None = None
    go_on: bool = False
    repeat_seconds: Annotated[int, Meta(ge=60, le=604_800)] | None = None


class QuietHours(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename={"from_": "from"}
):  # fmt: skip
    """`from` and `until` are times of the day such as 20:00, each day; with `weekends` all of Saturday and Sunday.

    Taken as a whole: what is left out of it is as it is at the beginning, not as it was set before.
    """

    from_: Annotated[str, Meta(max_length=5)] = "20:00"
    until: Annotated[str, Meta(max_length=5)] = "08:00"
    weekends: bool = True
    time_zone: Annotated[str, Meta(max_length=64)] = "UTC"


class Pace(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In seconds: how long the first alert of a group waits for others, how long news of a group wait for more, and
    after how long what goes on is told of again.

    Taken as a whole: what is left out of it is as it is at the beginning, not as it was set before.
    """

    wait_seconds: Annotated[int, Meta(ge=0, le=600)] = 30
    interval_seconds: Annotated[int, Meta(ge=1, le=3600)] = 300
    repeat_seconds: Annotated[int, Meta(ge=60, le=604_800)] = 14_400
    critical_repeat_seconds: Annotated[int, Meta(ge=60, le=604_800)] = 3_600


class DeadMan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The channel that hears of the alert `Watchdog`, which always fires: who watches it knows when all is silent."""

    channel: Name
    every_seconds: Annotated[int, Meta(ge=10, le=3600)] = 300


def by_severity() -> list[NotificationRoute]:
    return [NotificationRoute(name=severity, severities=[severity]) for severity in SEVERITIES]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of all this; the secrets in it are masks."""

    channels: list[Channel] = msgspec.field(default_factory=list)
    routes: list[NotificationRoute] = msgspec.field(default_factory=by_severity)
    quiet_hours: QuietHours | None = msgspec.field(default_factory=QuietHours)
    pace: Pace = msgspec.field(default_factory=Pace)
    dead_man: DeadMan | None = None


Secrets = dict[str, dict[str, str]]
Check = Callable[[str, str], object]


def part(
    channel: Channel, former: Channel | None, kept: Mapping[str, str], field: str
) -> tuple[Channel, dict[str, str]]:
    """The channel with masks, and its secrets: what is given, else what was kept of `former`.

    Raises `errors.Invalid` where there is none, or where it would go to another server than the one it was given for.
    """
    kind, secrets = kind_of(channel), dict[str, str]()
    known = former if former is not None and type(former) is type(channel) else None
    for name in SECRETS[kind]:
        given = getattr(channel, name)
        shown = getattr(known, name, UNSET)
        if given is None:
            continue
        if given is not UNSET and given != shown:
            if MASK in given:
                raise errors.invalid(f"{field}.{name}", "is not what is kept; give it whole")
            secrets[name] = given
        elif name in kept and known is not None:
            _refuse_elsewhere(channel, known, name, secrets, kept, field)
            secrets[name] = kept[name]
        elif (kind, name) not in OPTIONAL:
            raise errors.invalid(f"{field}.{name}", "is missing")
    masks = {name: mask(name, secrets[name]) if name in secrets else None for name in SECRETS[kind]}
    return msgspec.structs.replace(channel, **masks), secrets


def _refuse_elsewhere(
    channel: Channel, former: Channel, name: str, secrets: Mapping[str, str], kept: Mapping[str, str], field: str
) -> None:
    """A secret that nobody can read must not be had by naming another server for it."""
    to = GIVEN_TO.get((kind_of(channel), name))
    if to is None:
        return
    before, now = (kept[to], secrets.get(to)) if to in kept else (getattr(former, to), getattr(channel, to))
    if before != now:
        raise errors.invalid(f"{field}.{name}", f"must be given again with another {to}")


def mask(name: str, secret: str) -> str:
    """Of an address the server is shown; what is no address is nothing but a secret, and is refused by `check`."""
    if name != "url":
        return MASK
    try:
        parts = urlsplit(secret)
    except ValueError:
        return MASK
    return f"{parts.scheme}://{parts.netloc}/{MASK}"


def kind_of(channel: Channel) -> str:
    return str(type(channel).__struct_config__.tag)


def check(settings: Settings, secrets: Secrets, check_url: Check) -> None:
    """Raises `errors.Invalid` naming the first field that is wrong. `check_url` is `outbound`'s."""
    names = [channel.name for channel in settings.channels]
    for i, channel in enumerate(settings.channels):
        field = f"channels[{i}]"
        _check_name(channel.name, names[:i], field)
        _check_channel(channel, secrets.get(channel.name, {}), field, check_url)
    for i, route in enumerate(settings.routes):
        _check_name(route.name, [other.name for other in settings.routes[:i]], f"routes[{i}]")
        _check_route(route, names, settings.pace, f"routes[{i}]")
    _check_times(settings, names)


def addresses(settings: Settings, secrets: Secrets) -> dict[str, str]:
    """What Alertmanager will ask, by the fields that hold it."""
    found = {}
    for i, channel in enumerate(settings.channels):
        if url := secrets.get(channel.name, {}).get("url"):
            found[f"channels[{i}].url"] = url
        if isinstance(channel, Telegram):
            found[f"channels[{i}].api_url"] = channel.api_url
    return found


def _check_name(name: str, before: list[str], field: str) -> None:
    _match(NAME, name, f"{field}.name", "must be small letters, digits and single hyphens")
    if name in before:
        raise errors.invalid(f"{field}.name", "is the name of another one")


def _check_channel(channel: Channel, secrets: Mapping[str, str], field: str, check_url: Check) -> None:
    for name, text in secrets.items():
        _match(PRINTABLE, text, f"{field}.{name}", "has a space, a control character or one that is not ASCII")
        _refuse_template(text, f"{field}.{name}")
    if "url" in secrets:
        check_url(secrets["url"], f"{field}.url")
    if isinstance(channel, Email):
        for i, to in enumerate(channel.to):
            _match(MAIL, to, f"{field}.to[{i}]", "is not an e-mail address")
    elif isinstance(channel, Telegram):
        check_url(channel.api_url, f"{field}.api_url")
        _refuse_template(channel.api_url, f"{field}.api_url")
        _match(BOT, secrets["token"], f"{field}.token", "is not the token of a bot")
    elif isinstance(channel, Sms):
        _match(ACCOUNT, channel.account_sid, f"{field}.account_sid", "is not the SID of an account")
        for place, number in (("from", channel.from_), *((f"to[{i}]", to) for i, to in enumerate(channel.to))):
            _match(PHONE, number, f"{field}.{place}", "is not a number such as +15550100200")


def _refuse_template(text: str, field: str) -> None:
    """Alertmanager may put labels of alerts in the place of what is in such brackets."""
    if "{{" in text:
        raise errors.invalid(field, "must not hold {{")


def _check_route(route: NotificationRoute, channels: list[str], pace: Pace, field: str) -> None:
    for i, name in enumerate(route.channels):
        if name not in channels:
            raise errors.invalid(f"{field}.channels[{i}]", "is not the name of a channel")
    for i, match in enumerate(route.matchers):
        _match(LABEL, match.label, f"{field}.matchers[{i}].label", "is not the name of a label")
        if not match.value.isprintable():
            raise errors.invalid(f"{field}.matchers[{i}].value", "must not hold control characters")
    if route.repeat_seconds is not None and route.repeat_seconds < 2 * pace.interval_seconds:
        raise errors.invalid(f"{field}.repeat_seconds", "must be at least twice pace.interval_seconds")


def _check_times(settings: Settings, channels: list[str]) -> None:
    for name in ("repeat_seconds", "critical_repeat_seconds"):
        if getattr(settings.pace, name) < 2 * settings.pace.interval_seconds:
            raise errors.invalid(f"pace.{name}", "must be at least twice pace.interval_seconds")
    if settings.dead_man and settings.dead_man.channel not in channels:
        raise errors.invalid("dead_man.channel", "is not the name of a channel")
    if quiet := settings.quiet_hours:
        _match(CLOCK, quiet.from_, "quiet_hours.from", "must be a time such as 20:00")
        _match(CLOCK, quiet.until, "quiet_hours.until", "must be a time such as 08:00")
        _match(ZONE, quiet.time_zone, "quiet_hours.time_zone", "is not the name of a time zone")
        if quiet.from_ == quiet.until:
            raise errors.invalid("quiet_hours.until", "must be another time than quiet_hours.from")


def _match(pattern: "re.Pattern[str]", text: Any, field: str, sentence: str) -> None:
    if not pattern.fullmatch(text):
        raise errors.invalid(field, sentence)
