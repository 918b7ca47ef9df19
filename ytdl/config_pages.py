"""What is made from the settings: docs/CONFIGURATION.md and .env.example, for people to read, and Prometheus' file.

A test keeps the files equal to what is made here, prometheus/prometheus.yml to what the defaults make. The table, and
reading the environment, are `config`'s.
"""

import json
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from ytdl.config import FIELDS, Config, scrape_seconds, text_of

# As rarely as Prometheus may try rules that look back a minute.
MOST_EVALUATION_SECONDS = 60.0
# Listens to the whole network. There the parts know each other by names, as containers do.
ANYWHERE = ("", "0.0.0.0", "::")


def sections() -> dict[str, list[str]]:
    """The names of the settings by section, in the table's order."""
    found: dict[str, list[str]] = {}
    for name, field in FIELDS.items():
        found.setdefault(field.metadata["section"], []).append(name)
    return found


def markdown() -> str:
    """The text of docs/CONFIGURATION.md."""
    lines = [
        "# Settings",
        "",
        "<!-- Made by `ytdl config --markdown`; edit the table in ytdl/config.py. -->",
        "",
        "Every setting is an environment variable, and every one has a default. A secret (marked so) is also read",
        "from the file that `NAME_FILE` names; the log tells at the start of one that every account of the machine may",
        "read. `ytdl config` shows what is in force, `ytdl config --check` says what is wrong with it.",
    ]
    for section, names in sections().items():
        lines += ["", f"## {section}", "", "| name | default | meaning |", "| --- | --- | --- |"]
        for name in names:
            field = FIELDS[name]
            default = f"`{text}`" if (text := text_of(field.default)) else ""
            secret = " Secret." if field.metadata["secret"] else ""
            lines.append(f"| `{name}` | {default} | {field.metadata['help']}{secret} |")
    return "\n".join(lines) + "\n"


def env_example() -> str:
    """The text of .env.example, in which every setting stands with its default, commented out."""
    lines = ["# Made by `ytdl config --env`. Take the hash off a line to change what it sets."]
    for section, names in sections().items():
        lines += ["", f"# --- {section} ---"]
        for name in names:
            lines += ["", f"# {FIELDS[name].metadata['help']}", f"#{name}={text_of(FIELDS[name].default)}"]
    return "\n".join(lines) + "\n"


def prometheus(settings: Config, targets: Sequence[str] = ()) -> str:
    """The text of a prometheus.yml that lies beside the folder of the rules.

    `targets` are the instances, each `host:port` as Prometheus reaches it; without any it is one, where the settings
    say. What names and passwords the URLs have stays out of the text, which says so.
    """
    prometheus = settings.prometheus_url or f"http://{_beside(settings, 'prometheus')}:9090"
    alertmanager = settings.alertmanager_url or f"http://{_beside(settings, 'alertmanager')}:9093"
    scheme, _, prefix = _target(alertmanager)
    alertmanagers = f"scheme: {scheme}, path_prefix: {_text(prefix + '/')}"
    return PROMETHEUS_YML.format(
        scrape=_duration(scrape_seconds(settings)),
        evaluation=_duration(min(settings.alert_check_interval, MOST_EVALUATION_SECONDS)),
        runbooks=_text((settings.runbooks_url or "docs/runbooks").rstrip("/")),
        grafana=_text(settings.grafana_url.rstrip("/")),
        service=_static(*(targets or [_service(settings)])),
        prometheus=_job("prometheus", prometheus),
        alertmanager=_job("alertmanager", alertmanager),
        alertmanagers=_place(alertmanagers, "alertmanager", alertmanager),
    )


def _beside(settings: Config, name: str) -> str:
    """The host of a part that no URL tells of: this machine, or its name in the network."""
    return "localhost" if _on_one_machine(settings) else name


def _on_one_machine(settings: Config) -> bool:
    """Whether Prometheus can only be where the service is: nobody else reaches the one, or the service the other."""
    urls = (settings.prometheus_url, settings.alertmanager_url)
    return _is_loopback(settings.host) or any(_is_loopback(urlsplit(url).hostname or "") for url in urls)


def _service(settings: Config) -> str:
    if settings.host not in ANYWHERE:
        return _with_port(settings.host, settings.port)
    return _with_port("localhost" if _on_one_machine(settings) else "ytdl", settings.port)


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or re.fullmatch(r"127(\.\d+){3}", host) is not None


def _with_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _target(url: str) -> tuple[str, str, str]:
    """Scheme, host with port, and path without its last slash."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    return parts.scheme, _with_port(parts.hostname or "", port), parts.path.rstrip("/")


def _job(name: str, url: str) -> str:
    scheme, _, prefix = _target(url)
    return _place(f"job_name: {name}, scheme: {scheme}, metrics_path: {_text(prefix + '/metrics')}", name, url)


def _place(said: str, name: str, url: str) -> str:
    """Where something is, with a hint where its URL has a name or a password."""
    static = _static(_target(url)[1])
    if "@" not in urlsplit(url).netloc:
        return f"{{{said}, {static}}}"
    return "\n     ".join([f"{{{said},", *CREDENTIALS.format(name=name, NAME=name.upper()).splitlines(), f"{static}}}"])


def _static(*targets: str) -> str:
    return f"static_configs: [{{targets: {json.dumps(targets)}}}]"


def _text(text: str) -> str:
    """In YAML; what is plain there stands as it is."""
    return text if re.fullmatch(r"[\w:/.~-]+", text, re.ASCII) else json.dumps(text)


def _duration(seconds: float) -> str:
    """As Prometheus writes it, to the millisecond."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{round(seconds * 1000)}ms"


CREDENTIALS = """\
# {NAME}_URL has a name or a password, which stay out of this file. Give them to Prometheus by the next line:
# basic_auth: {{username: NAME, password_file: {name}.password}},
"""

PROMETHEUS_YML = """\
# Made by `ytdl config --prometheus` from HOST, PORT, METRICS_COLLECTION_INTERVAL, ALERT_CHECK_INTERVAL, PROMETHEUS_URL,
# ALERTMANAGER_URL, GRAFANA_URL and RUNBOOKS_URL; `--target HOST:PORT` names the service as Prometheus reaches it.
# Start Prometheus with --storage.tsdb.retention.time=35d, as the error budgets look back 30 days, and with
# --enable-feature=exemplar-storage, which keeps the traces of observations.
global:
  scrape_interval: {scrape}
  evaluation_interval: {evaluation}
  # Where the links in alerts lead to; alerts do not keep them as labels. Messages leave out what is empty.
  external_labels:
    runbooks: {runbooks}
    grafana: {grafana}

rule_files: [rules/*.yml]

alerting:
  alert_relabel_configs:
    - {{action: labeldrop, regex: runbooks|grafana}}
  alertmanagers:
    - {alertmanagers}

scrape_configs:
  # Every instance is a target of its own; the job is what the rules know the service by.
  - {{job_name: ytdl, {service}}}
  - {prometheus}
  - {alertmanager}
"""
