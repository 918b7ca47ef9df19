"""A stand-in for a mail server: STARTTLS, a name and password, and what it took.

It can refuse recipients and be slow. The certificate is of an authority of its own, whose file whoever sends has to
trust.
"""

import asyncio
import email
import email.policy
import time
from dataclasses import dataclass, field
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

from tests.fakes.youtube_proxy import make_authority

HOST = "localhost"
USER, PASSWORD = "alerts@example.org", "mail-secret-Mn9"


@dataclass
class Mail:
    """`text` and `html` are the two forms of one message."""

    sender: str
    to: list[str]
    subject: str
    text: str
    html: str
    at: float = field(default_factory=time.monotonic)


@dataclass
class Post:
    """`refusing` answers each recipient with 550, `delay` is in seconds before a message is taken."""

    ca_file: Path
    context: Any
    refusing: bool = False
    delay: float = 0.0
    got: list[Mail] = field(default_factory=list)
    asked: int = 0
    port: int = 0

    @classmethod
    def new(cls, folder: Path) -> Self:
        folder.mkdir(parents=True, exist_ok=True)
        return cls(*make_authority(folder, (HOST,)))

    async def __aenter__(self) -> Self:
        self._news = asyncio.Event()
        self._server = await asyncio.get_running_loop().create_server(self._session, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await self._server.wait_closed()

    async def until(self, words: str = "", *, count: int = 1, seconds: float = 30.0) -> Mail:
        """The latest mail with these words in its subject or text, once there are so many."""
        async with asyncio.timeout(seconds):
            while len(found := [m for m in self.got if words in m.subject + m.text + m.html]) < count:
                self._news.clear()
                await self._news.wait()
        return found[-1]

    def _session(self) -> SMTP:
        return SMTP(
            self, hostname=HOST, tls_context=self.context, require_starttls=True, auth_required=True,
            authenticator=self._check, enable_SMTPUTF8=True, loop=asyncio.get_running_loop(),
            # Of LOGIN this server asks in words that Alertmanager does not know.
            auth_exclude_mechanism=["LOGIN"],
        )  # fmt: skip

    def _check(self, server: SMTP, session: Session, envelope: Envelope, how: str, who: Any) -> AuthResult:
        known = isinstance(who, LoginPassword) and (who.login, who.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=known, handled=False)

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        self.asked += 1
        if self.refusing:
            return "550 No such user here"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        await asyncio.sleep(self.delay)
        raw = envelope.content
        assert isinstance(raw, bytes)
        message = email.message_from_bytes(raw, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        text, html = message.get_body(("plain",)), message.get_body(("html",))
        plain, marked = (body.get_content() if body else "" for body in (text, html))
        recipients = [str(to) for to in envelope.rcpt_tos]
        self.got.append(Mail(str(envelope.mail_from), recipients, str(message["Subject"]), plain, marked))
        self._news.set()
        return "250 OK"
