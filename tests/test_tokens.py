"""Access tokens without a server: what is believed, and everything that must not be.

An advisory of PyJWT stands beside the vectors that show what it is about.
"""

import base64
import codecs
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from ytdl import crypto, errors
from ytdl.crypto import AccessTokens

KEY = b"a key of the tests, which is long enough for every algorithm there is"


@pytest.fixture
def tokens() -> AccessTokens:
    return AccessTokens(KEY, "HS256")


def claims(**changed: Any) -> dict[str, Any]:
    """The claims of a good token; None leaves one out."""
    now = int(time.time())
    good = {"iss": "ytdl", "aud": "ytdl", "iat": now, "nbf": now, "exp": now + 60}
    ids = {"sub": str(uuid4()), "sid": str(uuid4()), "jti": "1"}
    return {name: value for name, value in (good | ids | changed).items() if value is not None}


def signed(key: bytes = KEY, algorithm: str = "HS256", typ: str = "at+jwt", **changed: Any) -> str:
    return jwt.encode(claims(**changed), key, algorithm, headers={"typ": typ})


def raw(header: dict[str, Any], payload: dict[str, Any]) -> str:
    """A token without a signature."""
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload))
    return b".".join(parts).decode() + "."


def sealed(header: dict[str, Any], payload: str, key: bytes) -> str:
    """A token with an HMAC signature that no library would make."""
    text = raw({"typ": "at+jwt"} | header, {})[: -len("e30.")]
    text += base64.urlsafe_b64encode(payload.encode()).rstrip(b"=").decode()
    made = hmac.digest(key, text.encode(), "sha256")
    return f"{text}.{base64.urlsafe_b64encode(made).rstrip(b'=').decode()}"


def said(**changed: Any) -> str:
    return json.dumps(claims(**changed))


def spelled(algorithm: str) -> Callable[[bytes], str]:
    return lambda key: sealed({"alg": algorithm}, said(), key)


RSA = rsa.generate_private_key(65537, 2048)
PUBLIC = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
PUBLIC_JWK = RSAAlgorithm.to_jwk(RSA.public_key(), as_dict=False).encode()
POINTERS: dict[str, Any] = {
    "kid": "../../../../dev/null",
    "jku": "https://attacker.example/keys.json",
    "x5u": "https://attacker.example/key.pem",
    "jwk": {"kty": "oct", "k": base64.urlsafe_b64encode(b"attacker" * 4).decode()},
    "x5c": ["MIIB"],
}


def test_a_token_says_whose_it_is(tokens: AccessTokens) -> None:
    user, session = uuid4(), uuid4()
    token = tokens.issue(user, session, seconds=60)
    said = tokens.verify(token)
    assert (said.user_id, said.session_id) == (user, session)
    assert said == tokens.verify(token)
    assert jwt.get_unverified_header(token)["typ"] == "at+jwt"


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_algorithm_verifies_its_own_tokens(algorithm: str) -> None:
    tokens = AccessTokens(KEY, algorithm)
    assert tokens.verify(tokens.issue(uuid4(), uuid4(), seconds=60))


def test_the_vectors_start_from_a_token_that_is_good(tokens: AccessTokens) -> None:
    assert tokens.verify(signed())


REFUSED: dict[str, Callable[[bytes], str]] = {
    "unsigned": lambda _: raw({"alg": "none", "typ": "at+jwt"}, claims()),
    "unsigned, spelled otherwise": lambda _: raw({"alg": "nOnE", "typ": "at+jwt"}, claims()),
    "signature cut off": lambda key: signed(key).rpartition(".")[0] + ".",
    # GHSA-hxm8-2xgr-2p9m: signs that mean nothing were passed over, which made many tokens of one.
    "signature with signs that mean nothing": lambda key: signed(key) + "!!!!",
    "signed with another key": lambda key: signed(key[::-1]),
    "signed with an empty key": lambda _: raw({"alg": "HS256", "typ": "at+jwt"}, claims()) + "AAAA",
    # HMAC fills a key up with zeros, so this is the right key in the length that the algorithm wants.
    "another algorithm": lambda key: signed(key.ljust(64, b"\0"), "HS512"),
    "another kind": lambda key: signed(key, typ="JWT"),
    "critical extension": lambda key: jwt.encode(
        claims(), key, "HS256", headers={"typ": "at+jwt", "crit": ["b64"], "b64": False}
    ),
    "expired": lambda key: signed(key, exp=int(time.time()) - 1),
    "not valid yet": lambda key: signed(key, nbf=int(time.time()) + 60),
    "issued in the future": lambda key: signed(key, iat=int(time.time()) + 60),
    "expiry is no number": lambda key: signed(key, exp="tomorrow"),
    "expiry is infinite": lambda key: signed(key, exp=float("inf")),
    "for another service": lambda key: signed(key, aud="grafana"),
    "from another service": lambda key: signed(key, iss="grafana"),
    "user is no id": lambda key: signed(key, sub="1"),
    "session is no id": lambda key: signed(key, sid="1"),
    "session is a number": lambda key: signed(key, sid=1),
    "huge": lambda key: signed(key, extra="x" * 100_000),
    # GHSA-8wjv-2p76-3863: the header was read as deep as it went, before any key was asked for.
    "deeply nested header": lambda _: raw({}, {}).replace(
        "e30", base64.urlsafe_b64encode(b"[" * 1400).decode().rstrip("="), 1
    ),
    **{
        f"unsigned, spelled {name!r}, with a signature": spelled(name)
        for name in ("none", "None", "NONE", "nOnE", "", "hs256", "HS256 ")
    },
    "no algorithm": lambda key: sealed({}, said(), key),
    "algorithm is a list": lambda key: sealed({"alg": ["HS256"]}, said(), key),
    "signed with RSA": lambda _: jwt.encode(claims(), RSA, "RS256", headers={"typ": "at+jwt"}),
    "says RSA, signed with our key": lambda key: sealed({"alg": "RS256"}, said(), key),
    # Where tokens of both kinds are taken a public key passed for a secret, as PEM (CVE-2022-29217), as a JWK in JSON
    # (GHSA-xgmm-8j9v-c9wx), and as one behind a mark of its encoding (GHSA-r6x4-923q-g947).
    "signed with a public key as if it were a secret": lambda _: sealed({"alg": "HS256"}, said(), PUBLIC),
    "signed with a public key in JSON": lambda _: sealed({"alg": "HS256"}, said(), PUBLIC_JWK),
    "signed with a public key in JSON, behind a mark": lambda _: sealed(
        {"alg": "HS256"}, said(), codecs.BOM_UTF8 + PUBLIC_JWK
    ),
    "really signed with an empty key": lambda _: sealed({"alg": "HS256"}, said(), b""),
    "signed with the key of its own head": lambda _: sealed(
        {"alg": "HS256", "jwk": POINTERS["jwk"]}, said(), b"attacker" * 4
    ),
    "signed with an empty file that it names": lambda _: sealed({"alg": "HS256", "kid": "/dev/null"}, said(), b""),
    # GHSA-752w-5fwx-jx9f: what a token says must be understood was passed over.
    "critical, and known": lambda key: sealed({"alg": "HS256", "crit": ["exp"]}, said(), key),
    "critical, and unknown": lambda key: sealed({"alg": "HS256", "crit": ["x"], "x": 1}, said(), key),
    "critical, and none": lambda key: sealed({"alg": "HS256", "crit": []}, said(), key),
    "critical, and no list": lambda key: sealed({"alg": "HS256", "crit": "b64"}, said(), key),
    "payload not encoded": lambda key: sealed({"alg": "HS256", "b64": False}, said(), key),
    "payload not encoded, and critical": lambda key: sealed(
        {"alg": "HS256", "b64": False, "crit": ["b64"]}, said(), key
    ),
    "deeply nested payload": lambda key: sealed({"alg": "HS256"}, "[" * 700 + "]" * 700, key),
    "payload is a list": lambda key: sealed({"alg": "HS256"}, "[]", key),
    "payload is no JSON": lambda key: sealed({"alg": "HS256"}, "{", key),
    "expiry is a text of digits": lambda key: sealed({"alg": "HS256"}, said(exp="9999999999"), key),
    "time of issue is a text of digits": lambda key: sealed({"alg": "HS256"}, said(iat="1"), key),
    "time of issue is true": lambda key: sealed({"alg": "HS256"}, said(iat=True), key),
    "start is a text of digits": lambda key: sealed({"alg": "HS256"}, said(nbf="1"), key),
    "expiry is true": lambda key: sealed({"alg": "HS256"}, said(exp=True), key),
    "expiry is a list": lambda key: sealed({"alg": "HS256"}, said(exp=[9999999999]), key),
    "expiry is a mapping": lambda key: sealed({"alg": "HS256"}, said(exp={}), key),
    "expiry is no number at all": lambda key: sealed({"alg": "HS256"}, said(exp=float("nan")), key),
    "expiry is beyond all numbers": lambda key: sealed(
        {"alg": "HS256"}, said().replace('"exp": ', '"exp": 1e999'), key
    ),
    "issuer is a list": lambda key: sealed({"alg": "HS256"}, said(iss=["ytdl"]), key),
    "audience is a mapping": lambda key: sealed({"alg": "HS256"}, said(aud={"ytdl": 1}), key),
    "encrypted, by its form": lambda key: signed(key) + ".x.y",
    "a refresh token": lambda _: crypto.new_secret(),
    "empty": lambda _: "",
    "two dots": lambda _: "..",
    "not ASCII": lambda _: "ä.ö.ü",
    "half a surrogate": lambda _: "\ud800.a.b",
}


@pytest.mark.parametrize("vector", REFUSED)
def test_a_bad_token_is_refused(tokens: AccessTokens, vector: str) -> None:
    with pytest.raises(errors.Unauthorized):
        tokens.verify(REFUSED[vector](KEY))


@pytest.mark.parametrize("name", crypto.REQUIRED_CLAIMS)
def test_no_claim_may_be_missing(tokens: AccessTokens, name: str) -> None:
    without: dict[str, Any] = {name: None}
    with pytest.raises(errors.Unauthorized):
        tokens.verify(signed(**without))


def test_a_changed_token_is_refused(tokens: AccessTokens) -> None:
    head, payload, signature = signed().split(".")
    other, end = signed().split(".")[1], "BA" if signature.endswith("AA") else "AA"
    for token in (f"{head}.{other}.{signature}", f"{head}.{payload}.{signature[:-2]}{end}"):
        with pytest.raises(errors.Unauthorized):
            tokens.verify(token)


def test_a_token_that_was_good_once_expires(tokens: AccessTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    token = tokens.issue(uuid4(), uuid4(), seconds=60)
    tokens.verify(token)
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    with pytest.raises(errors.Unauthorized):
        tokens.verify(token)


def test_what_the_head_points_at_is_passed_over(tokens: AccessTokens) -> None:
    for name, value in POINTERS.items():
        head = {"alg": "HS256", name: value}
        assert tokens.verify(sealed(head, said(), KEY)), name
        with pytest.raises(errors.Unauthorized):
            tokens.verify(sealed(head, said(), b"attacker" * 4))


FORGED = (
    "unsigned", "signature cut off", "signed with another key", "another algorithm", "signed with RSA",
    "says RSA, signed with our key", "signed with a public key as if it were a secret",
    "really signed with an empty key",
)  # fmt: skip
CLUMSY = ("expired", "not valid yet", "another kind", "for another service", "a refresh token", "empty", "two dots")


@pytest.mark.parametrize(("vector", "offence"), [*((v, "forgery") for v in FORGED), *((v, None) for v in CLUMSY)])
def test_only_what_was_made_without_the_key_is_a_forgery(
    tokens: AccessTokens, vector: str, offence: str | None
) -> None:
    with pytest.raises(errors.Unauthorized) as refused:
        tokens.verify(REFUSED[vector](KEY))
    assert refused.value.offence == offence


OLD = b"the key before that one, which is long enough for every algorithm too"


def test_tokens_of_the_previous_key_are_believed_until_they_expire() -> None:
    old, new = AccessTokens(OLD, "HS256"), AccessTokens(KEY, "HS256", previous=OLD)
    token = old.issue(uuid4(), uuid4(), seconds=60)
    assert new.verify(token) == old.verify(token)
    for refused in (signed(OLD, exp=int(time.time()) - 1), signed(OLD, typ="JWT"), signed(OLD[::-1])):
        with pytest.raises(errors.Unauthorized):
            new.verify(refused)
    with pytest.raises(errors.Unauthorized):
        AccessTokens(KEY, "HS256").verify(token)


def test_new_tokens_are_signed_with_the_new_key() -> None:
    token = AccessTokens(KEY, "HS256", previous=OLD).issue(uuid4(), uuid4(), seconds=60)
    assert AccessTokens(KEY, "HS256").verify(token)
    with pytest.raises(errors.Unauthorized):
        AccessTokens(OLD, "HS256").verify(token)
