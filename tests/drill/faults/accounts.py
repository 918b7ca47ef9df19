"""Attacks on accounts, and what is kept for them."""

import time
from collections.abc import AsyncIterator

from tests.cookiefiles import signed_in
from tests.drill.fault import again, fault
from tests.drill.ground import Ground
from tests.drill.people import Admin, addresses

OTHER_KEY = "ab" * 32


@fault("stolen-token", "A refresh token that was spent is presented again", "RefreshTokenReused")
async def _stolen_token(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    spent = token = (await admin.sign_in())["refresh_token"]
    for _ in range(2):
        _, tokens = await admin.ask("POST", "/security/refresh", {"refresh_token": token})
        token = tokens["refresh_token"]
    status, _ = await admin.ask("POST", "/security/refresh", {"refresh_token": spent})
    assert status == 401
    yield


@fault("login-storm", "Passwords are guessed, each from another address", "SignInsFailing")
async def _login_storm(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    wrong = ({"username": f"nobody{n}", "password": "Wrong-horse-9"} for n in range(10**6))
    some = addresses()
    async with again(lambda: admin.ask("POST", "/auth/login", next(wrong), X_Forwarded_For=next(some)), 0.5):
        yield


@fault("scanners", "Twenty addresses look for what scanners look for", "AddressesBlocked")
async def _scanners(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    some = addresses()
    for _ in range(20):
        headers = {"X-Forwarded-For": next(some)}
        for path in ("/.env", "/wp-login.php", "/.git/config", "/phpmyadmin/", "/.aws/credentials"):
            async with ground.client.get(ground.url + path, headers=headers) as answer:
                await answer.read()
    yield


@fault("audit-changed", "A link of the audit chain is deleted in the database", "AuditChainBroken")
async def _audit_changed(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("BEGIN")
        # The lock lets nobody link another event behind the one that goes.
        await db.execute("ALTER TABLE audit_chain DISABLE TRIGGER USER")
        await db.execute("DELETE FROM audit_chain WHERE seq = (SELECT max(seq) FROM audit_chain)")
        await db.execute("COMMIT")
    # The next event is linked to what is not there any more.
    await admin.sign_in()
    yield


@fault(
    "key-lost",
    "The service starts with another key while it keeps secrets of users",
    "CookiesUnreadable",
    apart=True,
    silent=("twilio",),
    also=("SecretsUnopened",),
)
async def _key_lost(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    await admin.request("PUT", "/cookies", {"cookies": signed_in()})
    await ground.kill_service()
    await ground.start_service(JWT_SECRET_KEY=OTHER_KEY)
    await ground.misbehave(player_locked="age_restricted")
    async with again(lambda: admin.download("ordinary_01"), 1.0):
        yield
    await ground.behave()
    await ground.kill_service()
    await ground.start_service()
    await admin.request("DELETE", "/cookies")


@fault("audit-locked", "Somebody locks the table of the audit chain", "AuditNotLinked")
async def _audit_locked(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    async with ground.database() as db:
        await db.execute("BEGIN")
        await db.execute("LOCK TABLE audit_chain IN EXCLUSIVE MODE")
        async with again(admin.sign_in, 2.0):
            yield
        await db.execute("ROLLBACK")


@fault("cookies-ending", "The cookies of a user end in two days", "CookiesExpiring")
async def _cookies_ending(ground: Ground, admin: Admin) -> AsyncIterator[None]:
    file = signed_in(expires=int(time.time()) + 2 * 86400)
    await admin.request("PUT", "/cookies", {"cookies": file})
    yield
    await admin.request("DELETE", "/cookies")
