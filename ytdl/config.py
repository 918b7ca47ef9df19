"""Every setting, declared once: the fields of `Config` are the table, a line each however long.

A setting is read from the environment variable of its upper-case name; a secret also from the file that
`NAME_FILE` names. What people read is made from this table by `config_pages`.
"""

import dataclasses
import ipaddress
import os
import re
import ssl
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg.conninfo

from ytdl import networks, passwords, samples

HIDDEN = "********"
# A window of a minute, the shortest in prometheus/rules, must hold two scrapes to tell anything, and what was not
# refreshed for five is stale there.
MOST_SCRAPE_SECONDS, MOST_COLLECTION_SECONDS, MOST_ALERT_CHECK_SECONDS = 30.0, 120.0, 300.0
PROXIES = ("http://", "https://", "socks4://", "socks4a://", "socks5://", "socks5h://")
LISTS_OF_SECRETS = ("OUTBOUND_PROXY", "ENCRYPTION_KEY_PREVIOUS")
# 32 bytes, see `vault.key_of`.
ENCRYPTION_KEY = re.compile(r"[0-9A-Fa-f]{64}|[A-Za-z0-9+/_-]{43}=?")
TRUE, FALSE = frozenset({"1", "true", "yes", "on"}), frozenset({"0", "false", "no", "off"})


class ConfigError(Exception):
    """`faults` holds one sentence for each setting that is wrong, all of them at once."""

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


def setting(default: Any, help: str, *, section: str, secret: bool = False, least: float | None = None) -> Any:
    meta = {"help": help, "section": section, "secret": secret, "least": least}
    # A Config may end up in a traceback or a log line: secrets are not in its repr.
    return dataclasses.field(default=default, metadata=meta, repr=not secret)


# fmt: off
@dataclass(frozen=True)
class Config:
    host: str = setting("127.0.0.1", "Address to listen on.", section="Service")
    port: int = setting(8000, "Port to listen on; 0 takes a free one.", section="Service", least=0)
    data_dir: Path = setting(Path("./data"), "Folder for everything the service writes.", section="Service")
    public_url: str = setting("", "How users reach the service, as it says at its start; empty means the listening address.", section="Service")
    log_level: str = setting("INFO", "DEBUG, INFO, WARNING or ERROR.", section="Service")
    trusted_proxies: tuple[str, ...] = setting((), "Networks whose X-Forwarded-For is believed, separated by commas.", section="Service")
    cors_allowed_origins: tuple[str, ...] = setting((), "Origins such as https://app.example.org whose pages may call the API from a browser, separated by commas.", section="Service")
    streams_per_user: int = setting(100, "Progress streams that a user may have open in this process.", section="Service", least=1)
    database_url: str = setting("", "PostgreSQL to use; empty starts one of the service's own in DATA_DIR.", section="Servers", secret=True)
    database_pool_size: int = setting(10, "Connections to PostgreSQL at most.", section="Servers", least=2)
    redis_url: str = setting("", "Redis to use; empty starts one of the service's own in DATA_DIR.", section="Servers", secret=True)
    redis_prefix: str = setting("ytdl", "First part of every Redis key.", section="Servers")
    jwt_secret_key: str = setting("", "Key that signs access tokens, 32 characters at least (48 for HS384, 64 for HS512); needed when DATABASE_URL is set, else made at the first start and kept in DATA_DIR.", section="Accounts", secret=True)
    encryption_key: str = setting("", "Key that encrypts the secrets kept in the database: 32 random bytes as 64 hexadecimal digits or base64 (`openssl rand -hex 32`). Empty means one that is derived from JWT_SECRET_KEY, or where that is empty too, one that is made at the first start and kept in DATA_DIR.", section="Accounts", secret=True)
    encryption_key_previous: str = setting("", "Former values of ENCRYPTION_KEY, separated by commas, for what `ytdl secrets rotate` has not yet encrypted anew.", section="Accounts", secret=True)
    jwt_algorithm: str = setting("HS256", "HS256, HS384 or HS512.", section="Accounts")
    jwt_access_token_expire_minutes: int = setting(30, "Life of an access token, in minutes.", section="Accounts", least=1)
    jwt_refresh_token_expire_days: int = setting(7, "Life of a session, in days; then its user signs in again.", section="Accounts", least=1)
    jwt_secret_key_previous: str = setting("", "The key before a change of JWT_SECRET_KEY; access tokens signed with it are still believed until they expire, and what was encrypted with the key derived from it can still be read. Failed sign-ins and locks are forgotten at a change.", section="Accounts", secret=True)
    max_login_attempts: int = setting(5, "Failed sign-ins in a row after which a user name is locked.", section="Accounts", least=1)
    lockout_duration_minutes: float = setting(15.0, "How long a user name is locked, in minutes; doubles with each further lock within a day, up to an hour, and not at all where it is longer.", section="Accounts", least=0.001)
    block_score: int = setting(100, "Points within ten minutes for which an address is blocked: 4 for a failed sign-in, 20 for a spent refresh token and 5 for a forged one or an API key that nobody has, each counted once however often it comes, 1 for a limit gone over, 2 for an address that does not exist, 25 for one that scanners look for; 0 blocks nobody but those that an admin blocks. A trusted proxy and this machine are never blocked: set TRUSTED_PROXIES, or all users behind a proxy are blocked with one.", section="Accounts", least=0)
    block_minutes: float = setting(10.0, "How long an address is blocked; doubles with each block within a week, up to a day.", section="Accounts", least=0.01)
    rate_limit_per_minute: int = setting(600, "Requests a minute of one user, and of one API key; all of them may come at once.", section="Limits", least=1)
    rate_limit_address_per_minute: int = setting(0, "The same of one address (IPv6: a network of 64 bits), whoever asks; 0 means 5 times RATE_LIMIT_PER_MINUTE.", section="Limits", least=0)
    rate_limit_login_per_minute: int = setting(0, "Sign-ins, refreshes, registrations and changes of passwords of one address; 0 means a 5th of RATE_LIMIT_PER_MINUTE.", section="Limits", least=0)
    rate_limit_create_per_minute: int = setting(0, "Downloads that one user may ask for; 0 means a 5th of RATE_LIMIT_PER_MINUTE.", section="Limits", least=0)
    registration_open: bool = setting(True, "Whether anyone may make an account.", section="Accounts")
    admin_username: str = setting("admin", "Name of the admin that is made when there is none.", section="Accounts")
    admin_password: str = setting("", "Password of that admin; empty makes one and prints it once.", section="Accounts", secret=True)
    download_concurrency: int = setting(50, "Downloads at once in this process; 0 makes it an API only.", section="Downloads", least=0)
    download_user_concurrency: int = setting(10, "Downloads at once of one user, over all processes.", section="Downloads", least=1)
    download_lease_seconds: float = setting(30.0, "How long a job stays with a worker that does not renew it.", section="Downloads", least=0.5)
    download_max_attempts: int = setting(5, "Failures after which a download is given up.", section="Downloads", least=1)
    download_backoff_seconds: float = setting(5.0, "First delay before a retry; doubles with each failure, up to 15 minutes, with full jitter.", section="Downloads", least=0)
    download_stall_seconds: float = setting(60.0, "A transfer without a byte for this long, or with less than 256 bytes a second on the average of it, is ended and tried again.", section="Downloads", least=1)
    download_timeout_seconds: float = setting(7200.0, "An attempt that takes longer is ended. Of that, the site may take 2 minutes to describe the video, making the file an hour and checking it an hour.", section="Downloads", least=1)
    download_max_bytes: int = setting(20 * 2**30, "Largest file, in bytes.", section="Downloads", least=1)
    download_min_free_bytes: int = setting(256 * 2**20, "Free space in DATA_DIR below which no job is started, in bytes.", section="Downloads", least=0)
    drain_seconds: float = setting(25.0, "How long running jobs may go on after SIGTERM before they are handed back.", section="Downloads", least=0)
    outbound_proxy: str = setting("", "Proxy for everything that yt-dlp fetches; several, separated by commas, share the downloads, each download keeping to one. A comma in a password is written %2C.", section="Outbound", secret=True)
    outbound_ca_file: str = setting("", "Certificate authority to trust there.", section="Outbound")
    allowed_extractors: tuple[str, ...] = setting(("youtube",), "Sites that may be fetched from; only youtube so far.", section="Outbound")
    allowed_private_networks: tuple[str, ...] = setting((), "Networks that are fetched from although they are not public, separated by commas.", section="Outbound")
    ytdlp_extractor_args: str = setting("", "Arguments for yt-dlp's extractors, as on its command line; they may hold tokens.", section="Outbound", secret=True)
    ytdlp_cookies_file: str = setting("", "Cookies in Netscape form for yt-dlp; each job gets a private copy.", section="Outbound")
    egress_starts_per_minute: float = setting(120.0, "Attempts that may start on each proxy in a minute, over all processes.", section="Outbound", least=0.1)
    egress_burst: int = setting(60, "Attempts that may start at once on a proxy that has been idle.", section="Outbound", least=1)
    egress_pause_seconds: float = setting(60.0, "How long a proxy is left alone after a bot check, a 429 or an error of its own; doubles with each failed probe, up to an hour.", section="Outbound", least=0.1)
    metrics_collection_interval: float = setting(15.0, "Seconds between two refreshes of the gauges, and how often Prometheus is to scrape them; the rules need 30 at most, and 120 is the most there may be.", section="Observability", least=0.1)
    otel_exporter_otlp_endpoint: str = setting("", "Collector of traces that takes OTLP over HTTP, such as http://localhost:4318; empty tells none.", section="Observability", secret=True)
    otel_traces_sample_ratio: float = setting(1.0, "Share of the traces that begin here, 0 to 1, that are told; one that a caller began is told as it says.", section="Observability", least=0)
    prometheus_url: str = setting("", "Prometheus that watches the service, for what is asked about the course of metrics, such as http://localhost:9090; empty switches that off.", section="Observability", secret=True)
    grafana_url: str = setting("", "Where Grafana with the service's dashboards can be reached, for links in alerts and reports; empty leaves them out of messages.", section="Observability")
    runbooks_url: str = setting("", "Where docs/runbooks can be read, for links in alerts, such as https://git.example.org/ytdl/docs/runbooks; empty has messages name the files by their path.", section="Observability")
    alertmanager_url: str = setting("", "Alertmanager, for what is asked and told about alerts, such as http://localhost:9093; empty switches that off.", section="Observability", secret=True)
    alert_check_interval: float = setting(30.0, "Seconds between two looks at the alerts of Alertmanager, at most 300, and between two times that Prometheus tries the rules, for which 60 is the most.", section="Observability", least=0.1)
    alertmanager_config_file: str = setting("", "File that Alertmanager reads its configuration from, to be written by the service from what admins set; its templates go beside it. Empty leaves it to the operator. Needs ALERTMANAGER_URL.", section="Observability")
    alertmanager_service_url: str = setting("", "Where Alertmanager reaches the service, for text messages; empty means PUBLIC_URL.", section="Observability")
    alertmanager_ca_file: str = setting("", "Certificate authorities that Alertmanager trusts when it sends notifications, in place of its system's; the path is as Alertmanager sees it.", section="Observability")
    smtp_host: str = setting("", "Mail server for notifications; empty means no e-mail.", section="Observability")
    smtp_port: int = setting(587, "Its port; 465 speaks TLS from the first byte, on others STARTTLS is asked for.", section="Observability", least=1)
    smtp_user: str = setting("", "Name to sign in with there; empty does not sign in.", section="Observability")
    smtp_password: str = setting("", "Password to sign in with there.", section="Observability", secret=True)
    smtp_from: str = setting("", "Address that notifications come from; needed with SMTP_HOST.", section="Observability")
    smtp_tls: bool = setting(True, "Whether mail is only sent encrypted.", section="Observability")
    twilio_url: str = setting("https://api.twilio.com", "Where text messages are handed in: Twilio, or one of its regions.", section="Observability")

    # fmt: on

FIELDS: dict[str, "dataclasses.Field[Any]"] = {f.name.upper(): f for f in dataclasses.fields(Config)}


def load(env: Mapping[str, str] = os.environ) -> Config:
    """Raises `ConfigError` with a sentence for every fault found."""
    values: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, field in FIELDS.items():
        try:
            text = _read(name, field.metadata["secret"], env)
            if text is not None:
                values[field.name] = _parse(field, text)
        except ValueError as e:
            faults[name] = f"{name} {e}."
    config = Config(**values)
    # A setting that could not be read counts as its default here, and is complained of once.
    together = [sentence for sentence in _combined(config) if sentence.split()[0] not in faults]
    if faults or together:
        raise ConfigError([*faults.values(), *together])
    return config


def _read(name: str, secret: bool, env: Mapping[str, str]) -> str | None:
    file = env.get(f"{name}_FILE") if secret else None
    if not file:
        # Set to nothing is the same as not set.
        return _whole(env.get(name, "")) or None
    if env.get(name):
        raise ValueError(f"and {name}_FILE are both set; set one of them")
    try:
        text = Path(file).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"cannot be read from the file that {name}_FILE names") from None
    if not text:
        raise ValueError(f"is empty in the file that {name}_FILE names")
    return _whole(text)


def _whole(text: str) -> str:
    """Python keeps bytes that are no UTF-8 as halves of characters, which nothing can take later; its own complaint
    would tell one character of a secret."""
    if "\0" in text:
        raise ValueError("holds a NUL character")
    if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError("holds bytes that are not UTF-8")
    return text


def exposed(env: Mapping[str, str] = os.environ) -> list[str]:
    """The secrets in files that every account of this machine may read."""
    secrets = [name for name, field in FIELDS.items() if field.metadata["secret"] and env.get(f"{name}_FILE")]
    return [name for name in secrets if Path(env[f"{name}_FILE"]).stat().st_mode & stat.S_IROTH]


def _bool(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise ValueError("must be true or false")
    return text.lower() in TRUE


def _number(kind: Callable[[str], Any], word: str) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError:
            raise ValueError(f"must be {word}, not {text[:40]!r}") from None

    return read


_READERS: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: _number(int, "a whole number"),
    float: _number(float, "a number"),
    bool: _bool,
    Path: Path,
    tuple[str, ...]: lambda text: tuple(map(_plain, _entries(text))),
}


def _plain(entry: str) -> str:
    """An IPv4 network that is written in IPv6, as IPv4: every address is compared in that form."""
    if not _network(entry):
        return entry
    network = ipaddress.ip_network(entry)
    plain = networks.unmapped(network)
    return entry if plain is network else str(plain)


# Beyond these no server and no clock can follow; three years are this many seconds.
MOST = 10**8
MOST_BYTES = 2**60


def _parse(field: "dataclasses.Field[Any]", text: str) -> Any:
    value = _READERS[field.type](text)
    least = field.metadata["least"]
    if least is not None and not least <= value < float("inf"):
        raise ValueError(f"must be at least {least:g}")
    most = MOST_BYTES if field.name.endswith("_bytes") else MOST
    if least is not None and value > most:
        raise ValueError(f"must be at most {most}")
    return value


def _combined(c: Config) -> list[str]:
    """Faults that only show when settings are seen together, or that need more than a type."""
    lists = {"TRUSTED_PROXIES": c.trusted_proxies, "ALLOWED_PRIVATE_NETWORKS": c.allowed_private_networks}
    entries = [(name, text) for name, texts in lists.items() for text in texts]
    network_faults = [f"{name} has {text!r}, which is not a network." for name, text in entries if not _network(text)]
    # A key is at least as long as the hash it goes into (RFC 7518, section 3.2).
    key_length = {"HS384": 48, "HS512": 64}.get(c.jwt_algorithm, 32)
    unread = [name for name, value, reads in _addresses(c) if value and not reads(value)]
    # fmt: off
    rules = (
        (c.port > 65535, "PORT must be at most 65535."),
        (c.otel_traces_sample_ratio > 1, "OTEL_TRACES_SAMPLE_RATIO must be at most 1."),
        (c.metrics_collection_interval > MOST_COLLECTION_SECONDS, f"METRICS_COLLECTION_INTERVAL must be at most {MOST_COLLECTION_SECONDS:.0f}."),
        (c.alert_check_interval > MOST_ALERT_CHECK_SECONDS, f"ALERT_CHECK_INTERVAL must be at most {MOST_ALERT_CHECK_SECONDS:.0f}."),
        (c.log_level not in ("DEBUG", "INFO", "WARNING", "ERROR"), "LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR."),
        (c.jwt_algorithm not in ("HS256", "HS384", "HS512"), "JWT_ALGORITHM must be HS256, HS384 or HS512."),
        (bool(c.database_url) and not c.jwt_secret_key, "JWT_SECRET_KEY must be set when DATABASE_URL is set."),
        (0 < len(c.jwt_secret_key) < key_length, f"JWT_SECRET_KEY must have at least {key_length} characters."),
        (0 < len(c.jwt_secret_key_previous) < key_length, f"JWT_SECRET_KEY_PREVIOUS must have at least {key_length} characters."),
        (len(c.admin_password) > passwords.LONGEST, f"ADMIN_PASSWORD must have at most {passwords.LONGEST} characters."),
        (not re.fullmatch(r"[A-Za-z0-9_.-]{3,50}", c.admin_username), "ADMIN_USERNAME must be 3 to 50 letters, digits, _, - or dots."),
        (bool(c.encryption_key) and not ENCRYPTION_KEY.fullmatch(c.encryption_key), "ENCRYPTION_KEY must be 32 bytes as 64 hexadecimal digits or base64."),
        (not all(map(ENCRYPTION_KEY.fullmatch, former_keys_of(c.encryption_key_previous))), "ENCRYPTION_KEY_PREVIOUS must list keys in the form of ENCRYPTION_KEY."),
        (bool(c.database_url) and not c.database_url.startswith(("postgresql://", "postgres://")), "DATABASE_URL must begin with postgresql://."),
        (bool(c.redis_url) and not c.redis_url.startswith(("redis://", "rediss://", "unix://")), "REDIS_URL must begin with redis://, rediss:// or unix://."),
        (bool(c.public_url) and not c.public_url.startswith(("http://", "https://")), "PUBLIC_URL must begin with http:// or https://."),
        (bool(c.prometheus_url) and not c.prometheus_url.startswith(("http://", "https://")), "PROMETHEUS_URL must begin with http:// or https://."),
        (bool(c.grafana_url) and not c.grafana_url.startswith(("http://", "https://")), "GRAFANA_URL must begin with http:// or https://."),
        (bool(c.runbooks_url) and not c.runbooks_url.startswith(("http://", "https://")), "RUNBOOKS_URL must begin with http:// or https://."),
        (bool(c.alertmanager_url) and not c.alertmanager_url.startswith(("http://", "https://")), "ALERTMANAGER_URL must begin with http:// or https://."),
        (not all(map(_is_origin, c.cors_allowed_origins)), "CORS_ALLOWED_ORIGINS must list origins such as https://app.example.org, without a path."),
        (bool(c.outbound_ca_file) and not Path(c.outbound_ca_file).is_file(), "OUTBOUND_CA_FILE names a file that is not there."),
        (bool(c.ytdlp_cookies_file) and not Path(c.ytdlp_cookies_file).is_file(), "YTDLP_COOKIES_FILE names a file that is not there."),
        (bool(c.outbound_proxy) and not _are_proxies(c.outbound_proxy), "OUTBOUND_PROXY must begin with http://, https:// or socks5://."),
        (bool(c.ytdlp_extractor_args) and not re.fullmatch(r"(\w[\w-]*:\S.*=.*)", c.ytdlp_extractor_args), "YTDLP_EXTRACTOR_ARGS must look like youtube:name=value;name=value."),
        (bool(c.alertmanager_config_file) and not c.alertmanager_url, "ALERTMANAGER_URL must be set when ALERTMANAGER_CONFIG_FILE is set."),
        (bool(c.smtp_host) and not c.smtp_from, "SMTP_FROM must be set when SMTP_HOST is set."),
        (bool(c.smtp_from) and not re.fullmatch(r"[^\s@{}<>]+@[^\s@{}<>]+", c.smtp_from), "SMTP_FROM must be a plain e-mail address."),
        (bool(c.smtp_host) and not re.fullmatch(r"[A-Za-z0-9.:_-]+", c.smtp_host), "SMTP_HOST must be a name or an address."),
        (c.smtp_port > 65535, "SMTP_PORT must be at most 65535."),
        (not all(not url or url.startswith(("http://", "https://")) for url in (c.alertmanager_service_url, c.twilio_url)), "ALERTMANAGER_SERVICE_URL and TWILIO_URL must begin with http:// or https://."),
        (c.allowed_extractors != ("youtube",), "ALLOWED_EXTRACTORS must be youtube; other sites cannot be opened yet."),
    )
    # fmt: on
    faults = [sentence for broken, sentence in rules if broken]
    if c.outbound_ca_file and Path(c.outbound_ca_file).is_file() and not _authority(c.outbound_ca_file):
        faults.append("OUTBOUND_CA_FILE holds no certificate.")
    # Which part is wrong is not said, as it may be one of the password.
    unread_faults = [f"{name} cannot be read as an address." for name in unread]
    return network_faults + faults + unread_faults + _given_away(c)


def _given_away(c: Config) -> list[str]:
    """Secrets that are none, because whoever reads documentation has them too."""
    return [
        f"{name} is a sample from documentation; choose one of your own."
        for name, entries in _secrets(c).items()
        if any("://" not in entry and samples.is_sample(entry) for entry in entries)
    ]


def scrape_seconds(c: Config) -> float:
    """How often Prometheus is to look at the service."""
    return min(c.metrics_collection_interval, MOST_SCRAPE_SECONDS)


def doubtful(c: Config) -> list[str]:
    """A sentence for each setting that is unsafe, but is not refused: a database's password is its own business, and
    a service that has run with a regular key so far must still start."""
    wide = [text for text in c.trusted_proxies if _is_wide(ipaddress.ip_network(text))]
    found = [f"TRUSTED_PROXIES has {text}, so large that clients are in it: each can say to be anybody." for text in wide]
    for name, entries in _secrets(c).items():
        if any("://" in entry and samples.has_sample_password(entry) for entry in entries):
            found.append(f"{name} has a sample from documentation for its password, on a server elsewhere.")
        elif name.endswith("_KEY") and any(samples.is_weak(entry) for entry in entries):
            found.append(f"{name} is too regular for a key; make one with: openssl rand -hex 32")
    if c.metrics_collection_interval > MOST_SCRAPE_SECONDS:
        found.append("METRICS_COLLECTION_INTERVAL is over 30 seconds; the alerts look at windows of a minute.")
    return found


def _is_wide(network: networks.Network) -> bool:
    """Whether a network is larger than every private one, so that strangers are in it."""
    return network.prefixlen < (8 if network.version == 4 else 7)


def _secrets(c: Config) -> dict[str, tuple[str, ...]]:
    """By setting, the secrets that are set."""
    texts = {name: str(getattr(c, f.name)) for name, f in FIELDS.items() if f.metadata["secret"]}
    return {name: _entries(text) if name in LISTS_OF_SECRETS else (text,) for name, text in texts.items() if text}


def _entries(text: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in text.split(",") if entry.strip())


def _is_origin(text: str) -> bool:
    """Scheme, host and port as browsers send them: in small letters, and nothing after them."""
    return re.fullmatch(r"https?://(?:[a-z0-9.-]+|\[[0-9a-f:]+\])(?::[0-9]{1,5})?", text) is not None


def _authority(file: str) -> bool:
    try:
        ssl.create_default_context(cafile=file)
    except (ssl.SSLError, OSError):
        return False
    return True


def _addresses(c: Config) -> list[tuple[str, str, Callable[[str], bool]]]:
    return [
        ("DATABASE_URL", c.database_url, _postgres_address),
        ("REDIS_URL", c.redis_url, _address),
        ("OUTBOUND_PROXY", c.outbound_proxy, lambda text: all(map(_address, proxies_of(text)))),
        ("PUBLIC_URL", c.public_url, _address),
        ("PROMETHEUS_URL", c.prometheus_url, _address),
        ("GRAFANA_URL", c.grafana_url, _address),
        ("RUNBOOKS_URL", c.runbooks_url, _address),
        ("ALERTMANAGER_URL", c.alertmanager_url, _address),
    ]


def _postgres_address(text: str) -> bool:
    try:
        return bool(psycopg.conninfo.conninfo_to_dict(text))
    except psycopg.ProgrammingError:
        return False


def proxies_of(text: str) -> tuple[str, ...]:
    """The addresses in OUTBOUND_PROXY."""
    return _entries(text)


def former_keys_of(text: str) -> tuple[str, ...]:
    """The entries of ENCRYPTION_KEY_PREVIOUS."""
    return _entries(text)


def _are_proxies(text: str) -> bool:
    """Commas alone are none: whoever set something must not go out without a proxy."""
    proxies = proxies_of(text)
    return bool(proxies) and all(proxy.startswith(PROXIES) for proxy in proxies)


def _address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.port != 0 and bool(parts.hostname or parts.path)
    except ValueError:
        return False


def _network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


def show(config: Config) -> dict[str, str]:
    """Every setting as text, by name; a secret that is set shows as stars, an unset one as empty."""
    shown = {}
    for name, field in FIELDS.items():
        value = getattr(config, field.name)
        shown[name] = HIDDEN if field.metadata["secret"] and value else text_of(value)
    return shown


def text_of(value: Any) -> str:
    """A value as it would be written in the environment."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)
