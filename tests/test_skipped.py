"""What becomes of a test that lacks a program: it is skipped, and fails where CI=true says that all is there."""

import pytest

from tests import conftest
from tests.front import needs_nginx
from tests.watching import needs_alertmanager, needs_prometheus, needs_promtool

pytest_plugins = ["pytester"]
REASONS = [mark.kwargs["reason"] for mark in (needs_nginx, needs_prometheus, needs_alertmanager, needs_promtool)]
LACKING = """
import pytest

@pytest.mark.skipif(True, reason={reason!r})
def test_it():
    pass
"""


def outcomes(pytester: pytest.Pytester, reason: str) -> dict[str, int]:
    pytester.makepyfile(LACKING.format(reason=reason))
    # Without the project's own settings, as those lie elsewhere.
    setting = ("-o", "asyncio_default_fixture_loop_scope=function")
    return pytester.runpytest_inprocess(*setting, plugins=[conftest]).parseoutcomes()


@pytest.mark.parametrize("reason", REASONS)
def test_without_a_program_that_we_install_a_test_fails_in_ci(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    monkeypatch.setenv("CI", "true")
    assert outcomes(pytester, reason) == {"errors": 1}


@pytest.mark.parametrize(("ci", "reason"), [("", REASONS[0]), ("true", "only root can become someone else")])
def test_elsewhere_and_for_another_reason_it_is_skipped(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, ci: str, reason: str
) -> None:
    monkeypatch.setenv("CI", ci)
    assert outcomes(pytester, reason) == {"skipped": 1}
