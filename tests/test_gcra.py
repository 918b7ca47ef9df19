"""The arithmetic of limits under any sequence of requests, and the script in Redis beside it."""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ytdl import gcra
from ytdl.gcra import MICROSECONDS, WINDOW_SECONDS, Policy, Tally
from ytdl.kv import KV, LUA

# Microseconds since the last request, units needed, units wanted beside those.
EVENTS = st.lists(
    st.tuples(
        st.one_of(st.just(0), st.integers(0, 2 * WINDOW_SECONDS * MICROSECONDS), st.integers(0, 50_000)),
        st.integers(0, 40),
        st.integers(0, 200),
    ),
    min_size=1,
    max_size=60,
)
LIMITS = st.one_of(st.integers(1, 50), st.integers(1, 10_000))
START = 1_800_000_000 * MICROSECONDS
# However long the machine stands still meanwhile.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def played(policies: list[Policy], events: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
    """The moments at which units were given, and how many."""
    tally, now, given = Tally(10), START, []
    keys = [policy.name for policy in policies]
    for gap, need, more in events:
        now += gap
        given.append((now, tally.take(policies, keys, need, need + more, now)[0]))
    return given


@PATIENT
@given(limit=LIMITS, events=EVENTS)
def test_in_no_window_more_pass_than_the_limit_and_what_the_time_gives_back(
    limit: int, events: list[tuple[int, int, int]]
) -> None:
    policy = gcra.policy("p", limit)
    moments = played([policy], events)
    for first, last in itertools.combinations_with_replacement(range(len(moments)), 2):
        passed = sum(units for _, units in moments[first : last + 1])
        assert passed <= limit + (moments[last][0] - moments[first][0]) // policy.interval


@PATIENT
@given(first=LIMITS, second=LIMITS, events=EVENTS)
def test_of_two_policies_none_gives_more_than_it_would_alone(
    first: int, second: int, events: list[tuple[int, int, int]]
) -> None:
    policies = [gcra.policy("a", first), gcra.policy("b", second)]
    moments = played(policies, events)
    began = moments[0][0]
    for policy in policies:
        for n, (now, _) in enumerate(moments):
            assert sum(units for _, units in moments[: n + 1]) <= policy.limit + (now - began) // policy.interval


@PATIENT
@given(limit=LIMITS)
def test_the_whole_limit_passes_at_once_and_then_one_an_interval(limit: int) -> None:
    policy, tally = gcra.policy("p", limit), Tally(1)
    assert tally.take([policy], ["a"], limit + 1, limit + 1, START)[0] == limit
    given, [debt] = tally.take([policy], ["a"], 1, 1, START)
    assert (given, policy.wait(debt)) == (0, policy.interval)
    assert tally.take([policy], ["a"], 1, 1, START + policy.interval - 1)[0] == 0
    assert tally.take([policy], ["a"], 1, 1, START + policy.interval)[0] == 1


def test_a_minute_gives_back_the_limit_and_no_more() -> None:
    for limit in (1, 7, 59, 600, 3333, 100_000):
        policy = gcra.policy("p", limit)
        assert 1 <= policy.full / (WINDOW_SECONDS * MICROSECONDS) < 1.01


def test_what_is_not_needed_yet_is_given_only_of_plenty() -> None:
    assert gcra.grant(1, 100, [(80, 80), (800, 800)]) == 10
    assert gcra.grant(1, 100, [(7, 7)]) == 1
    assert gcra.grant(20, 100, [(80, 80)]) == 20
    assert gcra.grant(20, 100, [(80, 80), (5, 80)]) == 5
    assert gcra.grant(1, 1, [(80, 80), (0, 80)]) == 0


def test_nothing_is_given_for_later_once_half_is_used() -> None:
    assert gcra.grant(1, 100, [(800, 1000)]) == 100
    assert gcra.grant(1, 100, [(540, 1000)]) == 40
    assert gcra.grant(1, 100, [(500, 1000)]) == 1
    assert gcra.grant(1, 100, [(900, 900), (499, 1000)]) == 1


def test_whoever_is_refused_by_one_policy_uses_nothing_of_the_others() -> None:
    wide, narrow, tally = gcra.policy("wide", 10), gcra.policy("narrow", 1), Tally(10)
    for _ in range(5):
        tally.take([wide, narrow], ["w", "n"], 1, 1, START)
    assert wide.units(tally.debt("w", START)) == 9


def test_a_tally_forgets_who_was_noted_longest_ago() -> None:
    tally = Tally(2)
    for key in "abac":
        tally.note(key, 5, START)
    assert [tally.debt(key, START) for key in "abc"] == [5, 0, 5]
    assert len(tally) == 2


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(first=LIMITS, second=LIMITS, events=EVENTS)
async def test_the_script_gives_what_the_arithmetic_gives(
    kv: KV, first: int, second: int, events: list[tuple[int, int, int]]
) -> None:
    """With Redis' clock taken out of the script, for that is the one thing that differs."""
    policies = [gcra.policy("a", first), gcra.policy("b", second)]
    tally, now = Tally(10), START
    keys = [kv.key(str(n)) for n in range(2)]
    await kv.client.delete(*keys)
    for gap, need, more in events:
        now += gap
        args = [need, need + more, 2, 0, policies[0].interval, first, 0, policies[1].interval, second]
        given, *debts = await at(kv, now, keys, args)
        assert (given, debts) == tally.take(policies, keys, need, need + more, now)


async def at(kv: KV, now: int, keys: list[str], args: list[int]) -> list[int]:
    script = (LUA / "limit.lua").read_text()
    timeless = script.replace("math.ceil(debts[i] / 1000)", "60000")
    fixed = timeless.replace("redis.call('TIME')", f"{{{now // MICROSECONDS}, {now % MICROSECONDS}}}")
    assert script != timeless != fixed
    answer: list[int] = await kv.client.eval(fixed, len(keys), *keys, *args)
    return answer
