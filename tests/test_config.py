"""Settings out of the environment: their types, their files, and every fault at once."""

import re
import secrets
from pathlib import Path

import msgspec
import pytest

from ytdl import config, config_pages, passwords
from ytdl.auth import Credentials
from ytdl.config import HIDDEN, Config, ConfigError

KEY = "4c1f0a9e7d5b38266e0fd1c2a4b39785"

SECRETS = [name for name, field in config.FIELDS.items() if field.metadata["secret"]]
# Something that each of them takes.
GOOD = {
    "DATABASE_URL": "postgresql://u:Rh3inf4ll@db.example.org/ytdl",
    "REDIS_URL": "redis://u:Rh3inf4ll@db.example.org/0",
    "ALERTMANAGER_URL": "https://u:Rh3inf4ll@alerts.example.org/am",
    "PROMETHEUS_URL": "https://u:Rh3inf4ll@metrics.example.org/p",
    "OTEL_EXPORTER_OTLP_ENDPOINT": "https://u:Rh3inf4ll@traces.example.org:4318",
    "SMTP_PASSWORD": "Rh3inf4ll!",
    "JWT_SECRET_KEY": KEY,
    "JWT_SECRET_KEY_PREVIOUS": KEY[::-1],
    "ENCRYPTION_KEY": KEY + KEY[::-1],
    "ENCRYPTION_KEY_PREVIOUS": f"{KEY + KEY[::-1]}, {KEY[::-1] + KEY}",
    "ADMIN_PASSWORD": "Rh3inf4ll!",
    "OUTBOUND_PROXY": "http://u:Rh3inf4ll@proxy.example.org:3128",
    "YTDLP_EXTRACTOR_ARGS": "youtube:po_token=web+Rh3inf4ll",
}


def faults(**env: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.load(env)
    return raised.value.faults


def doubts(**env: str) -> list[str]:
    return config.doubtful(config.load(env))


def test_an_empty_environment_is_in_order() -> None:
    assert config.load({}) == Config()


def test_each_type_is_read() -> None:
    env = {"PORT": "0", "DRAIN_SECONDS": "1.5", "REGISTRATION_OPEN": "No", "DATA_DIR": "/d"}
    found = config.load(env | {"TRUSTED_PROXIES": "::1, 10.0.0.0/8,"})
    assert (found.port, found.drain_seconds, found.registration_open) == (0, 1.5, False)
    assert (found.data_dir, found.trusted_proxies) == (Path("/d"), ("::1", "10.0.0.0/8"))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "x", "PORT must be a whole number, not 'x'."),
        ("PORT", "-1", "PORT must be at least 0."),
        ("PORT", "65536", "PORT must be at most 65535."),
        ("DRAIN_SECONDS", "nan", "DRAIN_SECONDS must be at least 0."),
        ("DOWNLOAD_LEASE_SECONDS", "1e300", "DOWNLOAD_LEASE_SECONDS must be at most 100000000."),
        ("DOWNLOAD_MAX_BYTES", "9" * 30, "DOWNLOAD_MAX_BYTES must be at most 1152921504606846976."),
        ("DRAIN_SECONDS", "inf", "DRAIN_SECONDS must be at least 0."),
        ("REGISTRATION_OPEN", "maybe", "REGISTRATION_OPEN must be true or false."),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL must be DEBUG, INFO, WARNING or ERROR."),
        ("JWT_ALGORITHM", "none", "JWT_ALGORITHM must be HS256, HS384 or HS512."),
        ("JWT_SECRET_KEY", "short", "JWT_SECRET_KEY must have at least 32 characters."),
        ("JWT_SECRET_KEY_PREVIOUS", "short", "JWT_SECRET_KEY_PREVIOUS must have at least 32 characters."),
        ("MAX_LOGIN_ATTEMPTS", "0", "MAX_LOGIN_ATTEMPTS must be at least 1."),
        ("LOCKOUT_DURATION_MINUTES", "0", "LOCKOUT_DURATION_MINUTES must be at least 0.001."),
        (
            "ADMIN_PASSWORD",
            "changeme",
            "ADMIN_PASSWORD is a sample from documentation; choose one of your own.",
        ),
        (
            "ENCRYPTION_KEY",
            "Rh3inf4ll",
            "ENCRYPTION_KEY must be 32 bytes as 64 hexadecimal digits or base64.",
        ),
        (
            "ENCRYPTION_KEY_PREVIOUS",
            "Rh3inf4ll",
            "ENCRYPTION_KEY_PREVIOUS must list keys in the form of ENCRYPTION_KEY.",
        ),
        ("REDIS_URL", "localhost", "REDIS_URL must begin with redis://, rediss:// or unix://."),
        ("REDIS_URL", "redis://h:abc", "REDIS_URL cannot be read as an address."),
        ("ALERTMANAGER_URL", "localhost:9093", "ALERTMANAGER_URL must begin with http:// or https://."),
        ("ALERTMANAGER_URL", "http://h:abc", "ALERTMANAGER_URL cannot be read as an address."),
        ("OUTBOUND_PROXY", "http://u:pw@h:abc", "OUTBOUND_PROXY cannot be read as an address."),
        ("OUTBOUND_PROXY", "h:3128", "OUTBOUND_PROXY must begin with http://, https:// or socks5://."),
        ("PUBLIC_URL", "example.org", "PUBLIC_URL must begin with http:// or https://."),
        ("OUTBOUND_CA_FILE", "/none", "OUTBOUND_CA_FILE names a file that is not there."),
        ("ADMIN_PASSWORD", "Rh3inf4ll" * 120, "ADMIN_PASSWORD must have at most 1024 characters."),
        ("ADMIN_PASSWORD", "Rh3inf4ll\udce9", "ADMIN_PASSWORD holds bytes that are not UTF-8."),
        ("TRUSTED_PROXIES", "proxy", "TRUSTED_PROXIES has 'proxy', which is not a network."),
        ("ALLOWED_PRIVATE_NETWORKS", "lan", "ALLOWED_PRIVATE_NETWORKS has 'lan', which is not a network."),
    ],
)
def test_a_fault_is_one_sentence(name: str, value: str, sentence: str) -> None:
    assert faults(**{name: value}) == [sentence]


def test_no_part_of_a_broken_address_is_said_for_it_may_be_the_password() -> None:
    found = faults(DATABASE_URL="postgresql://u:S3cr%zzet@h/db", JWT_SECRET_KEY=KEY)
    assert found == ["DATABASE_URL cannot be read as an address."]


def test_what_is_set_to_nothing_is_not_set() -> None:
    assert config.load({"DATA_DIR": "", "HOST": "", "PORT": ""}) == config.load({})


def test_all_faults_come_at_once() -> None:
    found = faults(PORT="x", LOG_LEVEL="LOUD", DATABASE_URL="postgresql:///ytdl")
    assert [sentence.split()[0] for sentence in found] == ["PORT", "LOG_LEVEL", "JWT_SECRET_KEY"]


def test_a_secret_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(KEY + "\n")
    assert config.load({"JWT_SECRET_KEY_FILE": str(tmp_path / "key")}).jwt_secret_key == KEY


def test_a_secrets_file_must_be_there_and_stand_alone(tmp_path: Path) -> None:
    missing = str(tmp_path / "none")
    assert faults(JWT_SECRET_KEY_FILE=missing) == [
        "JWT_SECRET_KEY cannot be read from the file that JWT_SECRET_KEY_FILE names."
    ]
    assert "are both set" in faults(JWT_SECRET_KEY_FILE=missing, JWT_SECRET_KEY=KEY)[0]


@pytest.mark.parametrize("name", SECRETS)
def test_every_secret_can_stand_in_a_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text(GOOD[name] + "\n")
    others = {} if name == "JWT_SECRET_KEY" else {"JWT_SECRET_KEY": KEY}
    found = config.load(others | {f"{name}_FILE": str(tmp_path / "secret")})
    assert getattr(found, name.lower()) == GOOD[name]


def test_a_secrets_file_that_all_may_read_is_found(tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("JWT_SECRET_KEY", "ADMIN_PASSWORD")}
    for mode, file in zip((0o640, 0o644), files.values(), strict=True):
        file.write_text(KEY)
        file.chmod(mode)
    assert config.exposed({f"{name}_FILE": str(file) for name, file in files.items()}) == ["ADMIN_PASSWORD"]
    assert config.exposed({"PORT_FILE": str(files["ADMIN_PASSWORD"])}) == []


@pytest.mark.parametrize("name", config.FIELDS)
def test_bytes_that_are_no_text_are_a_sentence_for_every_setting(name: str) -> None:
    assert f"{name} holds bytes that are not UTF-8." in faults(**{name: "Rh3inf4ll\udce9"})


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    ("held", "sentence"),
    [
        (b"", "{0} is empty in the file that {0}_FILE names."),
        (b"\n", "{0} is empty in the file that {0}_FILE names."),
        (b"Rh3inf4ll\0", "{0} holds a NUL character."),
        (b"Rh3inf4ll\xe9", "{0} cannot be read from the file that {0}_FILE names."),
    ],
    ids=["nothing", "a line", "nul", "latin-1"],
)
def test_a_secrets_file_without_a_usable_secret_is_refused(
    name: str, held: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / "secret").write_bytes(held)
    assert faults(**{f"{name}_FILE": str(tmp_path / "secret")}) == [sentence.format(name)]


def test_a_sign_in_reads_as_long_a_password_as_the_settings_take() -> None:
    password = "Rh3!" * (passwords.LONGEST // 4)
    config.load({"ADMIN_PASSWORD": password})
    assert msgspec.convert({"username": "admin", "password": password}, Credentials).password == password
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"username": "admin", "password": password + "x"}, Credentials)


@pytest.mark.parametrize("name", ["TRUSTED_PROXIES", "ALLOWED_PRIVATE_NETWORKS"])
def test_an_ipv4_network_written_in_ipv6_is_read_as_ipv4(name: str) -> None:
    found = config.load({name: "::ffff:10.0.0.1, ::ffff:a01:0/112, 0:0:0:0:0:ffff:a02:3/128, ::1, fd00::/8, ::/0"})
    expected = ("10.0.0.1/32", "10.1.0.0/16", "10.2.0.3/32", "::1", "fd00::/8", "::/0")
    assert getattr(found, name.lower()) == expected


@pytest.mark.parametrize("network", ["0.0.0.0/0", "::/0", "128.0.0.0/1", "2000::/3", "::ffff:0:0/96"])
def test_trusting_everybody_is_doubtful(network: str) -> None:
    (doubt,) = doubts(TRUSTED_PROXIES=f"10.0.0.0/8, {network}, fc00::/7")
    assert doubt.startswith("TRUSTED_PROXIES has ") and doubt.endswith(": each can say to be anybody.")


def test_only_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("1")
    assert config.load({"PORT_FILE": str(tmp_path / "port")}).port == Config().port


def test_no_fault_repeats_a_secret() -> None:
    assert "hunter2" not in str(faults(JWT_SECRET_KEY="hunter2", ADMIN_PASSWORD="password", DATABASE_URL="hunter2"))


def test_no_secret_is_in_a_configs_repr() -> None:
    """Which is what a traceback or a careless log line would show."""
    whole = Config(**{name.lower(): f"hush-{name}" for name in SECRETS})  # type: ignore[arg-type]
    assert "hush" not in repr(whole) + str(whole) + f"{whole}"


SAMPLES = (
    *(
        "your-secret-key",
        "your-secret-key-here-change-in-production",
        "CHANGEME",
        "change_me_please_0123456789abcdefgh",
    ),
    *("this-is-a-sample-change-in-production-0123456", "<your key>", "x" * 40, "replace-this-with-a-random-string-42"),
    *("a-string-secret-at-least-256-bits-long", "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7"),
    *("password", "secret", "postgres", "Admin123", "changeme", "insert-your-token-here", "do-not-use-this-one"),
)


@pytest.mark.parametrize("sample", SAMPLES)
@pytest.mark.parametrize("name", SECRETS)
def test_a_sample_is_refused_for_every_secret(name: str, sample: str) -> None:
    assert any(sentence.split()[0] == name for sentence in faults(**{name: sample}))


@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL", "OUTBOUND_PROXY", "ALERTMANAGER_URL"])
@pytest.mark.parametrize("password", ["postgres", "changeme", "your-password", "p%61ssword"])
def test_a_sample_password_is_doubtful_for_a_server_elsewhere(name: str, password: str) -> None:
    scheme = GOOD[name].partition(":")[0]
    env = {"JWT_SECRET_KEY": KEY, name: f"{scheme}://u:{password}@db.example.org/0"}
    assert doubts(**env) == [f"{name} has a sample from documentation for its password, on a server elsewhere."]
    assert doubts(**env | {name: f"{scheme}://u:{password}@127.0.0.1/0"}) == []
    assert doubts(**env | {name: f"{scheme}://u:{KEY}@db.example.org/0"}) == []


def test_a_sample_password_is_found_among_parameters_and_in_a_list() -> None:
    assert doubts(DATABASE_URL="postgresql:///x?host=db&password=postgres", JWT_SECRET_KEY=KEY)
    assert doubts(OUTBOUND_PROXY=f"http://u:{KEY}@p1:3128, http://u:password@p2:3128")
    assert not doubts(DATABASE_URL="postgresql:///x?host=/run&password=postgres", JWT_SECRET_KEY=KEY)


@pytest.mark.parametrize("key", ["a" * 64, "7d0c5e19" * 8, "0123456789abcdef" * 4, "f00d" * 15 + "f00f"])
@pytest.mark.parametrize("name", ["JWT_SECRET_KEY", "ENCRYPTION_KEY"])
def test_a_key_that_nobody_made_at_random_is_doubtful(name: str, key: str) -> None:
    assert doubts(**{name: key}) == [f"{name} is too regular for a key; make one with: openssl rand -hex 32"]


@pytest.mark.parametrize(("seconds", "sentences"), [("30", 0), ("31", 1)])
def test_an_interval_that_leaves_alerts_without_figures_is_doubtful(seconds: str, sentences: int) -> None:
    found = doubts(METRICS_COLLECTION_INTERVAL=seconds)
    assert len([sentence for sentence in found if "METRICS_COLLECTION_INTERVAL" in sentence]) == sentences


def test_a_running_key_is_doubtful() -> None:
    assert doubts(JWT_SECRET_KEY="abcdefghijklmnopqrstuvwxyz012345")


def test_what_was_made_at_random_is_taken() -> None:
    for _ in range(500):
        key = secrets.token_hex(32)
        assert config.load({"JWT_SECRET_KEY": secrets.token_hex(16), "ENCRYPTION_KEY": key}).encryption_key == key
        config.load({"JWT_SECRET_KEY": secrets.token_urlsafe(32), "ADMIN_PASSWORD": secrets.token_urlsafe(12)})


def test_whatever_the_documentation_shows_for_a_secret_is_refused_or_nothing() -> None:
    root = Path(__file__).parent.parent
    texts = [path.read_text() for path in (*root.glob("*.md"), *root.glob("docs/**/*.md"), root / ".env.example")]
    shown = [match for text in texts for match in re.findall(r"\b([A-Z][A-Z_]+)=(['\"]?)([^\s'\"`]+)", text)]
    for name, _, value in shown:
        # An address without a name and a password in it is no secret.
        plain = "://" in value and "@" not in value
        assert name not in SECRETS or plain or faults(**{name: value}), f"{name}={value}"


def test_shown_settings_hide_secrets_that_are_set() -> None:
    shown = config.show(Config(jwt_secret_key=KEY, outbound_proxy=""))
    assert shown["JWT_SECRET_KEY"] == HIDDEN
    assert (shown["OUTBOUND_PROXY"], shown["PORT"], shown["REGISTRATION_OPEN"]) == ("", "8000", "true")


def test_the_example_sets_nothing_and_reads_back_as_the_defaults() -> None:
    lines = config_pages.env_example().splitlines()
    assert all(not line or line.startswith("#") for line in lines)
    pairs = [line[1:].partition("=") for line in lines if line.startswith("#") and line[1:2].isupper() and "=" in line]
    assert config.load({name: value for name, _, value in pairs if value}) == Config()
