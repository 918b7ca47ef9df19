"""Users and security: who is there, who signs in, what is refused, blocks, and the audit trail."""

from grafana.board import Board, Row
from grafana.panels import FULL, THIRD, Prom, bars, lines, number

GUESSES = "see /api/v1/security/events for the names and addresses; blocks are made by themselves."

NOW = Row("Now", [
    number(
        "Accounts", "Accounts that may sign in.", "as many as you have made or let register.",
        "a jump: look at registrations, and whether REGISTRATION_OPEN is meant.",
        Prom('sum(max by (role) (ytdl_users_accounts{active="yes"}))'), unit="none", least=0, see="analytics",
    ),
    number(
        "Open sessions", "Sessions that have neither ended nor been revoked.", "a few for each user.",
        "many of one user: a script that signs in each time.", Prom("max(ytdl_auth_sessions_open)"), unit="none", least=0,
    ),
    number(
        "Networks blocked", "Networks that are refused now.", "few.", "see who was blocked and why: /api/v1/security/blocks.",
        Prom("max(ytdl_blocks_active)"), unit="none", least=0, runbook=("security#AddressesBlocked",),
    ),
    number(
        "Broken audit chain", "Times within the window that an instance found the audit trail changed.", "0.",
        "follow the runbook before anything else.", Prom("sum(increase(ytdl_audit_breaks_total[$__range]))"),
        unit="none", bad=(1,), least=0, runbook=("security#AuditChainBroken",),
    ),
])  # fmt: skip

ACCOUNTS = Row("Sign-ins and accounts", [
    lines(
        "Sign-ins, by outcome", "Sign-ins tried in a minute, by how they ended.", "ok more than all others.", GUESSES,
        Prom("60 * sum by (outcome) (rate(ytdl_auth_logins_total[$__rate_interval]))", "{{outcome}}"), unit="none",
        runbook=("security#SignInsFailing",),
    ),
    lines(
        "Refreshes, by outcome", "Refresh tokens presented in a minute, by what came of it.", "ok; again is a lost answer.",
        "reused: two hold one session, and it was ended.",
        Prom("60 * sum by (outcome) (rate(ytdl_auth_refreshes_total[$__rate_interval]))", "{{outcome}}"), unit="none",
        runbook=("security#RefreshTokenReused",),
    ),
    lines(
        "Accounts, by role", "Accounts that may sign in and that may not, by role.", "a few admins.",
        "an admin that nobody knows: see who made it in the audit trail.",
        Prom("max by (role, active) (ytdl_users_accounts)", "{{role}}, active: {{active}}"), unit="none", width=THIRD,
    ),
    lines(
        "Registrations", "Accounts that were made by their users in the window behind each point.", "as people come.",
        "a burst is a script: close registration, or lower RATE_LIMIT_LOGIN_PER_MINUTE.",
        Prom("sum(increase(ytdl_auth_registrations_total[$__rate_interval]))", "registrations"), unit="none", width=THIRD,
    ),
    lines(
        "Passwords not looked at", "Sign-ins turned away in a minute because too many waited to have their password looked at.", "0.",
        "a storm of sign-ins; limits and blocks come in, and those who are signed in notice nothing.",
        Prom("60 * sum(rate(ytdl_auth_hashes_refused_total[$__rate_interval]))", "turned away"), unit="none", width=THIRD, runbook=("service#PasswordsRefused",),
    ),
])  # fmt: skip

REFUSALS = Row("Refusals and blocks", [
    lines(
        "Refused to somebody signed in", "Requests refused in a minute, by what was missing.", "few.",
        "somebody tries what is not theirs, or a client has a key of too small a scope.",
        Prom("60 * sum by (reason) (rate(ytdl_access_denied_total[$__rate_interval]))", "{{reason}}"), unit="none",
    ),
    lines(
        "Offences", "What addresses are blocked for, in a minute, as it came.", "few.", GUESSES,
        Prom("60 * sum by (offence) (rate(ytdl_blocks_offences_total[$__rate_interval]))", "{{offence}}"), unit="none",
    ),
    lines(
        "Blocks", "Networks refused, blocks that were made in the window behind each point, and requests they refused in a minute.", "few.",
        "many at once: an attack from many addresses, or a proxy that is not in TRUSTED_PROXIES.",
        Prom("max(ytdl_blocks_active)", "networks blocked"),
        Prom("sum by (reason) (increase(ytdl_blocks_created_total[$__rate_interval]))", "made for {{reason}}"),
        Prom("60 * sum(rate(ytdl_blocks_refused_total[$__rate_interval]))", "requests refused"), unit="none",
        runbook=("security#AddressesBlocked",),
    ),
    lines(
        "Offences, how they were added up", "In a minute: in Redis, in the process without it, or not at all for want of room.", "shared.",
        "process: Redis is away. Dropped and full: more offenders than there is room for.",
        Prom("60 * sum by (outcome) (rate(ytdl_blocks_scored_total[$__rate_interval]))", "{{outcome}}"), unit="none",
        runbook=("security#OffencesNotScored",), see="servers",
    ),
    lines(
        "Refused by limits", "Requests refused in a minute, by the policy that had nothing left, and instances that count by themselves.", "few, and none by themselves.",
        "login: somebody guesses. An instance by itself: Redis does not answer it.",
        Prom("60 * sum by (policy) (rate(ytdl_ratelimit_denied_total[$__rate_interval]))", "{{policy}}"),
        Prom("sum(ytdl_ratelimit_degraded)", "instances by themselves"), unit="none", runbook=("security#RateLimiterDegraded",), see="http",
    ),
    lines(
        "Cookies that are used", "Users' uploaded cookies by state, and the age of the operator's file in days; 0 without one.", "valid or unproven.",
        "refused: the site has ended these sessions; they are uploaded anew.",
        Prom("max by (status) (ytdl_cookies_state)", "{{status}}"),
        Prom("(time() - max(ytdl_cookies_file_modified_timestamp_seconds > 0)) / 86400 or vector(0)", "days of the operator's file"), unit="none",
        runbook=("security#CookiesRefused", "security#OperatorCookiesOld"), see="fetcher",
    ),
])  # fmt: skip

TRAIL = Row("Audit trail and secrets", [
    bars(
        "Events in this window", "Events written to the audit trail over the whole window, the twenty most frequent types.",
        "authn_login_success leads.", "what is rare and new is worth a look: /api/v1/security/events.",
        Prom("topk(20, sum by (type) (increase(ytdl_audit_events_total[$__range]))) > 0 or label_replace(sum(ytdl_audit_chain_length * 0), \"type\", \"none\", \"\", \"\")",
             "{{type}}"),
        unit="short",
    ),
    lines(
        "Waiting for their link", "Events that have no link in the chain yet.", "0 most of the time, a few for a second.",
        "nothing links: a change of these events would not be noticed.",
        Prom("max(ytdl_audit_pending_events)", "waiting"), unit="none", runbook=("security#AuditNotLinked",),
    ),
    lines(
        "Length of the chain", "Links of the audit chain, and how long ago it last grew, at most an hour shown.", "it grows.",
        "it never becomes shorter: if it does, follow the runbook of a broken chain.",
        Prom("max(ytdl_audit_chain_length)", "links"), unit="short", runbook=("security#AuditChainBroken",),
    ),
    lines(
        "Since the chain last grew", "Time since an instance last saw the chain grow.", "as long as nothing happens.",
        "events wait and nothing grows: see the runbook.",
        Prom("time() - max(ytdl_audit_sealed_timestamp_seconds > 0)", "since"), unit="s", runbook=("security#AuditNotLinked",),
    ),
    lines(
        "Secrets that could not be opened", "Kept secrets that could not be opened in the window behind each point, by why.", "0.",
        "no_key: a key is missing from the settings. damaged: the row is not what was written.",
        Prom("sum by (reason) (increase(ytdl_vault_unopened_total[$__rate_interval]))", "{{reason}}"), unit="none", width=FULL,
        runbook=("security#SecretsUnopened",),
    ),
])  # fmt: skip

BOARD = Board(
    "security", "Users and security", "Who is there and signs in, what is refused, who is blocked, and whether the audit trail is whole.",
    [NOW, ACCOUNTS, REFUSALS, TRAIL],
)  # fmt: skip
