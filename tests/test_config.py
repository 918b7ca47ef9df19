"""Settings out of the environment: their types, their files, and every fault at once."""

from pathlib import Path

import pytest

from ytdl import config
from ytdl.config import HIDDEN, Config, ConfigError

KEY = "k" * 32


def faults(**env: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        config.load(env)
    return raised.value.faults


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
        (
            "ADMIN_PASSWORD",
            "changeme",
            "ADMIN_PASSWORD is a sample from documentation; choose one of your own.",
        ),
        ("REDIS_URL", "localhost", "REDIS_URL must begin with redis://, rediss:// or unix://."),
        ("REDIS_URL", "redis://h:abc", "REDIS_URL cannot be read as an address."),
        ("OUTBOUND_PROXY", "http://u:pw@h:abc", "OUTBOUND_PROXY cannot be read as an address."),
        ("OUTBOUND_PROXY", "h:3128", "OUTBOUND_PROXY must begin with http://, https:// or socks5://."),
        ("PUBLIC_URL", "example.org", "PUBLIC_URL must begin with http:// or https://."),
        ("OUTBOUND_CA_FILE", "/none", "OUTBOUND_CA_FILE names a file that is not there."),
        ("TRUSTED_PROXIES", "proxy", "TRUSTED_PROXIES has 'proxy', which is not a network."),
        ("ALLOWED_PRIVATE_NETWORKS", "lan", "ALLOWED_PRIVATE_NETWORKS has 'lan', which is not a network."),
    ],
)
def test_a_fault_is_one_sentence(name: str, value: str, sentence: str) -> None:
    assert faults(**{name: value}) == [sentence]


def test_no_part_of_a_broken_address_is_said_for_it_may_be_the_password() -> None:
    found = faults(DATABASE_URL="postgresql://u:S3cr%zzet@h/db", JWT_SECRET_KEY="x" * 32)
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


def test_only_secrets_are_read_from_files(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("1")
    assert config.load({"PORT_FILE": str(tmp_path / "port")}).port == Config().port


def test_no_fault_repeats_a_secret() -> None:
    assert "hunter2" not in str(faults(JWT_SECRET_KEY="hunter2", ADMIN_PASSWORD="password", DATABASE_URL="hunter2"))


def test_shown_settings_hide_secrets_that_are_set() -> None:
    shown = config.show(Config(jwt_secret_key=KEY, outbound_proxy=""))
    assert shown["JWT_SECRET_KEY"] == HIDDEN
    assert (shown["OUTBOUND_PROXY"], shown["PORT"], shown["REGISTRATION_OPEN"]) == ("", "8000", "true")


def test_the_example_sets_nothing_and_reads_back_as_the_defaults() -> None:
    lines = config.env_example().splitlines()
    assert all(not line or line.startswith("#") for line in lines)
    pairs = [line[1:].partition("=") for line in lines if line.startswith("#") and line[1:2].isupper() and "=" in line]
    assert config.load({name: value for name, _, value in pairs if value}) == Config()
