"""Secrets that are none: what stands in documentation and tutorials, and what a finger that leans on a key types.

Who reads can enter a server that has one of them, so `config` refuses it at the start, or warns of it. Nothing here
judges what people choose as passwords; that is `passwords`'.
"""

import ipaddress
import itertools
import re
from urllib.parse import parse_qsl, unquote, urlsplit

# In small letters, without what stands between words.
SAMPLES = frozenset(
    {
        *("admin", "administrator", "admin123", "admin1234", "default", "example", "letmein", "none", "null", "pass"),
        *("passw0rd", "password", "password1", "password123", "passwort", "postgres", "postgresql", "qwerty", "redis"),
        *("root", "secret", "secret123", "secretkey", "supersecret", "test", "test123", "user", "username", "ytdl"),
        *("123456", "12345678", "123456789", "1234567890", "correcthorsebatterystaple", "mysecretpassword"),
        *("dbpassword", "userpassword", "redispassword", "postgrespassword", "adminpassword", "secretpassword"),
        # The keys of a much read tutorial and, in its older form, of the best known site about JWTs.
        "your256bitsecret",
        "09d25e094faa6ca2556c818166b7a9563b93f7099f6f0f4caa6cf63b88e8d3e7",
    }
)
# What only somebody writes who asks the reader to write something else.
ASKS = re.compile(
    r"chang(?:e|ed?)_?(?:me|this|it|in|for)|replace_?(?:me|this|with)|your_?(?:\w+_)?(?:secret|key|token|password|value)"
    r"|(?:secret|key|token|password)_?here|insert_?(?:your|here)|place_?holder|do_?not_?use|example_?(?:key|secret|only)"
    r"|a_string_secret_at_least|not_?(?:so|very)_?secret|to_?be_?(?:set|changed|replaced)|^x+$|^\W*<.*>\W*$"
)
DISTINCT = 8


def is_sample(text: str) -> bool:
    """Whether this is a well-known sample, or asks to be replaced."""
    lower = text.strip().lower()
    words = re.sub(r"[^a-z0-9]+", "_", lower)
    return re.sub(r"[\s_.-]+", "", lower) in SAMPLES or bool(ASKS.search(words) or ASKS.search(lower))


def is_weak(key: str) -> bool:
    """Whether a key is so regular that nobody made it at random: few different characters, one piece again and again,
    or most of it running up or down. Of random keys of 32 hexadecimal digits one in some ten million is."""
    steps = [ord(b) - ord(a) for a, b in itertools.pairwise(key)]
    running = sum(step in (-1, 1) for step in steps)
    again = (key + key).find(key, 1) < len(key)
    return len(set(key)) < DISTINCT or again or running * 4 > len(steps) * 3


def has_sample_password(address: str) -> bool:
    """Whether an address elsewhere than on this machine has a sample for its password.

    On loopback and on a socket whoever gets that far is on the machine already, and development works like that.
    """
    try:
        parts = urlsplit(address)
        # PostgreSQL also takes them as parameters.
        more = dict(parse_qsl(parts.query))
        password = unquote(parts.password or "") or more.get("password", "")
        host = parts.hostname or more.get("host", "")
    except ValueError:
        # That an address cannot be read at all is said elsewhere.
        return False
    return bool(password) and is_sample(password) and not _is_here(host)


def _is_here(host: str) -> bool:
    if host in ("", "localhost") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
