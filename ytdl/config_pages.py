"""What is made from the settings: docs/CONFIGURATION.md and .env.example, for people to read, and Prometheus' file.

A test keeps the files equal to what is made here, prometheus/prometheus.yml to what the defaults make. The table, and
reading the environment, are `config`'s.
"""

import json
import re
from urllib.parse import urlsplit

from ytdl.config import FIELDS, Config, scrape_seconds, text_of

# By these names the parts know each other where each is a container of one network.
GRAFANA, PROMETHEUS, ALERTMANAGER = "http://localhost:3000", "http://prometheus:9090", "http://alertmanager:9093"


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


def prometheus(settings: Config) -> str:
    """The text of a prometheus.yml that lies beside the folder of the rules.

    Whoever runs several instances adds them to the targets; what names and passwords the URLs have stays out of it.
    """
    scheme, alertmanager, prefix = _target(settings.alertmanager_url or ALERTMANAGER)
    alertmanagers = f"scheme: {scheme}, path_prefix: {_text(prefix + '/')}, {_static(alertmanager)}"
    return PROMETHEUS_YML.format(
        scrape=_duration(scrape_seconds(settings)),
        evaluation=_duration(settings.alert_check_interval),
        runbooks=_text((settings.runbooks_url or "docs/runbooks").rstrip("/")),
        grafana=_text((settings.grafana_url or GRAFANA).rstrip("/")),
        service=f"ytdl:{settings.port}",
        prometheus=_job("prometheus", settings.prometheus_url or PROMETHEUS),
        alertmanager=_job("alertmanager", settings.alertmanager_url or ALERTMANAGER),
        alertmanagers=f"{{{alertmanagers}}}",
    )


def _target(url: str) -> tuple[str, str, str]:
    """Scheme, host with port, and path without its last slash."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return parts.scheme, f"{host}:{port}", parts.path.rstrip("/")


def _job(name: str, url: str) -> str:
    scheme, target, prefix = _target(url)
    return f"{{job_name: {name}, scheme: {scheme}, metrics_path: {_text(prefix + '/metrics')}, {_static(target)}}}"


def _static(target: str) -> str:
    return f"static_configs: [{{targets: [{json.dumps(target)}]}}]"


def _text(text: str) -> str:
    """In YAML; what is plain there stands as it is."""
    return text if re.fullmatch(r"[\w:/.~-]+", text, re.ASCII) else json.dumps(text)


def _duration(seconds: float) -> str:
    """As Prometheus writes it, to the millisecond."""
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{round(seconds * 1000)}ms"


PROMETHEUS_YML = """\
# Made by `ytdl config --prometheus` from METRICS_COLLECTION_INTERVAL, ALERT_CHECK_INTERVAL, PROMETHEUS_URL,
# ALERTMANAGER_URL, GRAFANA_URL and RUNBOOKS_URL. Start Prometheus with --storage.tsdb.retention.time=35d, as the
# error budgets look back 30 days, and with --enable-feature=exemplar-storage, which keeps the traces of observations.
global:
  scrape_interval: {scrape}
  evaluation_interval: {evaluation}
  # Where the links in alerts lead to; alerts do not keep them as labels.
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
  - {{job_name: ytdl, static_configs: [{{targets: ["{service}"]}}]}}
  - {prometheus}
  - {alertmanager}
"""
