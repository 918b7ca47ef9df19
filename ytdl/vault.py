"""Encryption at rest: bytes that stand in the database and open only with a key that does not stand there.

`Vault(keys)` seals with the first key and opens with each of them; `of(config)` is the vault of the settings in force.
AES-256-GCM with a random nonce. A sealed value is: a version byte, the key's id, the nonce, the ciphertext with its
tag. Where values are kept, and how they move to a newer key, is `sealed`'s.
"""

import base64
import functools
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from ytdl import crypto, errors, metrics
from ytdl.config import ENCRYPTION_KEY, Config, former_keys_of

VERSION = b"\x01"
KEY_BYTES, ID_BYTES, NONCE_BYTES, TAG_BYTES = 32, 8, 12, 16
HEADER_BYTES = len(VERSION) + ID_BYTES
OVERHEAD_BYTES = HEADER_BYTES + NONCE_BYTES + TAG_BYTES
# Apart from every other use that a signing key may be put to.
FROM_SIGNING_KEY = b"ytdl encryption at rest, from the signing key, 1"
NO_KEY = "A kept secret cannot be read: it is sealed with the key {}, which is not among ENCRYPTION_KEY and its like."
DAMAGED = "A kept secret cannot be read: it is damaged, or was sealed for another place."


class Unopened(errors.Unavailable):
    """A sealed value does not open. `key_id` is the key it names, empty where not even that can be read."""

    def __init__(self, message: str, key_id: str) -> None:
        super().__init__(message)
        self.key_id = key_id


class Vault:
    """Seals with the first of `keys`, opens with any of them; each is 32 bytes, and to be kept for itself."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError("a vault needs keys of 32 bytes")
        self._ciphers = {_id_of(key): AESGCM(key) for key in keys}
        self._newest = _id_of(keys[0])

    @property
    def newest(self) -> str:
        """The id of the key that seals, as hexadecimal text."""
        return self._newest.hex()

    @property
    def key_ids(self) -> frozenset[str]:
        return frozenset(id.hex() for id in self._ciphers)

    def seal(self, plain: bytes, about: str) -> bytes:
        """`about` says what and whose this is ("cookies:<user id>"); it is not kept, and needed again to open."""
        header, nonce = VERSION + self._newest, secrets.token_bytes(NONCE_BYTES)
        return header + nonce + self._ciphers[self._newest].encrypt(nonce, plain, header + about.encode())

    def open(self, sealed: bytes, about: str) -> bytes:
        """Raises `Unopened` where the key is missing, a bit has changed, or it was sealed about something else."""
        header, nonce = sealed[:HEADER_BYTES], sealed[HEADER_BYTES:][:NONCE_BYTES]
        if len(sealed) < OVERHEAD_BYTES or not header.startswith(VERSION):
            raise _refused("damaged", DAMAGED, "")
        key_id = header[len(VERSION) :]
        if key_id not in self._ciphers:
            raise _refused("no_key", NO_KEY.format(key_id.hex()), key_id.hex())
        try:
            return self._ciphers[key_id].decrypt(nonce, sealed[HEADER_BYTES + NONCE_BYTES :], header + about.encode())
        except InvalidTag:
            raise _refused("damaged", DAMAGED, key_id.hex()) from None


def _refused(reason: str, message: str, key_id: str) -> Unopened:
    metrics.vault_unopened.labels(reason).inc()
    return Unopened(message, key_id)


@functools.cache
def _id_of(key: bytes) -> bytes:
    """Names a key without telling anything of it."""
    return hashlib.sha256(b"ytdl key id" + key).digest()[:ID_BYTES]


def key_of(text: str) -> bytes:
    """32 bytes out of 64 hexadecimal digits, or of base64 in either alphabet; raises `ValueError`."""
    if not ENCRYPTION_KEY.fullmatch(text):
        raise ValueError("not a key of 32 bytes")
    if len(text) == 2 * KEY_BYTES:
        return bytes.fromhex(text)
    return base64.b64decode(text.rstrip("=").replace("-", "+").replace("_", "/") + "=", validate=True)


def from_signing_key(signing_key: str) -> bytes:
    """The key where ENCRYPTION_KEY is not set and JWT_SECRET_KEY is: processes that share one share the other."""
    return HKDF(SHA256(), KEY_BYTES, salt=None, info=FROM_SIGNING_KEY).derive(signing_key.encode())


def of(config: Config) -> Vault:
    """The newest key first, then whatever may have been the newest before: so any of the ways to come by a key can be
    left for another one, and `ytdl secrets rotate` then seals anew what the former key had sealed.

    Blocks for moments where the key is a file; raises `ValueError` where that holds no key.
    """
    made = config.data_dir / "secrets" / "encryption.key"
    derived = [from_signing_key(key) for key in (config.jwt_secret_key, config.jwt_secret_key_previous) if key]
    own = [_made(made)] if made.exists() else []
    former = [*derived, *own, *map(key_of, former_keys_of(config.encryption_key_previous))]
    if config.encryption_key:
        return Vault([key_of(config.encryption_key), *former])
    return Vault(former if config.jwt_secret_key else [_made(made), *former])


def _made(path: Path) -> bytes:
    """The service's own key, made when it is not there."""
    try:
        return key_of(crypto.signing_key(path, size=KEY_BYTES).decode())
    except ValueError:
        raise ValueError(f"{path} holds no key of 32 bytes, and what was sealed with it needs it back.") from None
