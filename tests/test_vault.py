"""Encryption at rest: what opens, what does not and what is said then, and where the keys come from."""

import base64
import dataclasses
import stat
from pathlib import Path

import pytest

from ytdl import vault
from ytdl.config import Config
from ytdl.vault import Unopened, Vault

OLD, NEW = b"o" * 32, b"n" * 32
PLAIN, ABOUT = b"# Netscape HTTP Cookie File", "cookies:alice"


def test_what_is_sealed_opens_and_does_not_show() -> None:
    sealed = Vault([NEW]).seal(PLAIN, ABOUT)
    assert Vault([NEW]).open(sealed, ABOUT) == PLAIN
    assert PLAIN not in sealed
    assert len(sealed) == len(PLAIN) + vault.OVERHEAD_BYTES


def test_the_same_twice_is_sealed_in_two_ways() -> None:
    assert Vault([NEW]).seal(PLAIN, ABOUT) != Vault([NEW]).seal(PLAIN, ABOUT)


def test_the_first_key_seals_and_every_key_opens() -> None:
    before, both = Vault([OLD]), Vault([NEW, OLD])
    assert both.open(before.seal(PLAIN, ABOUT), ABOUT) == PLAIN
    assert both.newest == Vault([NEW]).newest
    assert Vault([NEW]).open(both.seal(PLAIN, ABOUT), ABOUT) == PLAIN


def test_a_missing_key_is_named() -> None:
    sealed = Vault([OLD]).seal(PLAIN, ABOUT)
    with pytest.raises(Unopened, match=Vault([OLD]).newest) as raised:
        Vault([NEW]).open(sealed, ABOUT)
    assert raised.value.key_id == Vault([OLD]).newest


def test_a_value_that_was_moved_to_somebody_else_does_not_open() -> None:
    sealed = Vault([NEW]).seal(PLAIN, ABOUT)
    with pytest.raises(Unopened, match="another place"):
        Vault([NEW]).open(sealed, "cookies:bob")


def test_no_bit_of_it_can_be_changed() -> None:
    keys = Vault([NEW, OLD])
    sealed = keys.seal(b"x", ABOUT)
    for bit in range(len(sealed) * 8):
        changed = bytearray(sealed)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Unopened):
            keys.open(bytes(changed), ABOUT)


def test_one_key_cannot_be_passed_off_as_another() -> None:
    """The id is bound to what it heads: with the other's id in front even the same cipher refuses."""
    keys = Vault([NEW, OLD])
    sealed = keys.seal(PLAIN, ABOUT)
    other = Vault([OLD]).seal(PLAIN, ABOUT)
    with pytest.raises(Unopened):
        keys.open(other[: vault.HEADER_BYTES] + sealed[vault.HEADER_BYTES :], ABOUT)


@pytest.mark.parametrize("length", range(vault.OVERHEAD_BYTES + 1))
def test_what_is_cut_short_does_not_open(length: int) -> None:
    with pytest.raises(Unopened):
        Vault([NEW]).open(Vault([NEW]).seal(PLAIN, ABOUT)[:length], ABOUT)


def test_no_error_shows_what_was_sealed() -> None:
    with pytest.raises(Unopened) as raised:
        Vault([NEW]).open(Vault([NEW]).seal(PLAIN, ABOUT), "elsewhere")
    assert "Netscape" not in repr(raised.value) + str(raised.value)


@pytest.mark.parametrize("keys", [[], [b"short"], [NEW, b"x" * 33]])
def test_a_vault_takes_only_whole_keys(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Vault(keys)


def test_a_key_is_written_in_hexadecimal_or_base64() -> None:
    key = bytes(range(224, 256))
    padded = base64.urlsafe_b64encode(key).decode()
    for text in (key.hex(), key.hex().upper(), padded, padded.rstrip("="), base64.b64encode(key).decode()):
        assert vault.key_of(text) == key


@pytest.mark.parametrize("text", ["", "a" * 63, "g" * 64, "a" * 42, "=" * 44, "a" * 44, "ä" * 43, "a" * 43 + "=="])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a key"):
        vault.key_of(text)


def settings(folder: Path, **given: str) -> Config:
    return dataclasses.replace(Config(), data_dir=folder, **given)  # type: ignore[arg-type]


def test_without_any_setting_a_key_is_made_for_its_owner_only(tmp_path: Path) -> None:
    first = vault.of(settings(tmp_path))
    path = tmp_path / "secrets" / "encryption.key"
    assert vault.of(settings(tmp_path)).newest == first.newest
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    # So that the file can become ENCRYPTION_KEY as it is.
    assert vault.of(settings(tmp_path / "other", encryption_key=path.read_text())).newest == first.newest


def test_a_broken_key_file_is_not_replaced(tmp_path: Path) -> None:
    vault.of(settings(tmp_path))
    path = tmp_path / "secrets" / "encryption.key"
    path.write_text("x" * 40)
    with pytest.raises(ValueError, match="needs it back"):
        vault.of(settings(tmp_path))
    assert path.read_text() == "x" * 40


def test_processes_that_share_a_signing_key_share_this_one(tmp_path: Path) -> None:
    one, other = (vault.of(settings(tmp_path / name, jwt_secret_key="j" * 40)) for name in ("a", "b"))
    assert one.newest == other.newest
    assert not (tmp_path / "a").exists()
    assert vault.from_signing_key("j" * 32) != b"j" * 32


def test_a_key_of_its_own_goes_first_and_the_ways_before_it_still_open(tmp_path: Path) -> None:
    made, derived = vault.of(settings(tmp_path)), Vault([vault.from_signing_key("j" * 40)])
    now = vault.of(settings(tmp_path, jwt_secret_key="j" * 40, encryption_key=NEW.hex()))
    assert now.newest == Vault([NEW]).newest
    assert now.key_ids == {now.newest, made.newest, derived.newest}


def test_former_keys_and_the_former_signing_key_are_read_with(tmp_path: Path) -> None:
    keys = {"encryption_key_previous": f"{OLD.hex()}, {NEW.hex()}", "jwt_secret_key_previous": "p" * 40}
    found = vault.of(settings(tmp_path, jwt_secret_key="j" * 40, **keys))
    derived = [vault.from_signing_key(letter * 40) for letter in "jp"]
    assert found.key_ids == {Vault([key]).newest for key in (OLD, NEW, *derived)}
    assert found.newest == Vault(derived).newest


def test_a_former_key_never_seals(tmp_path: Path) -> None:
    former = vault.of(settings(tmp_path, jwt_secret_key_previous="p" * 40, encryption_key_previous=OLD.hex()))
    assert former.newest == vault.of(settings(tmp_path)).newest
