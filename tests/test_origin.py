"""Where a file's address may lead: redirects, what other hosts are told, addresses that are closed."""

from pathlib import Path

import pytest

from tests.fakes.youtube import YouTube
from tests.fetching import fail, fetch, order_for
from ytdl.fetcher import Fetcher

ELSEWHERE = "https://rr9---sn-elsewhere.googlevideo.com/videoplayback?{query}"


async def test_a_redirect_to_another_host_is_followed_with_what_is_harmless(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_moved=ELSEWHERE)
    youtube.forget()
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    first, second = (
        {
            name
            for seen in youtube.requests
            if seen.path == "/videoplayback" and ("rr9" in seen.host) is moved
            for name in seen.headers
        }
        for moved in (False, True)
    )
    assert done.height == 1080
    assert "sec-fetch-mode" in first and "user-agent" in second
    assert second <= {"accept", "accept-encoding", "accept-language", "host", "if-range", "range", "user-agent"}


async def test_a_redirect_within_the_host_keeps_what_was_sent(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_moved="/videoplayback?{query}")
    youtube.forget()
    await fetch(fetcher, order_for(youtube, tmp_path))
    assert all("sec-fetch-mode" in seen.headers for seen in youtube.requests if seen.path == "/videoplayback")


@pytest.mark.parametrize(
    "place", ["", "https://[", "https://host:port/x", "http://googlevideo.com/x", "file:///etc/passwd"]
)
async def test_an_address_that_leads_nowhere_is_an_error_of_the_site(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, place: str
) -> None:
    youtube.misbehave(media_moved=place or "https://")
    assert (await fail(fetcher, order_for(youtube, tmp_path))).failure.code == "upstream_error"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "169.254.169.254", "10.0.0.1", "[::ffff:192.168.0.1]"])
async def test_behind_a_proxy_too_closed_addresses_are_not_asked(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path, host: str
) -> None:
    youtube.misbehave(media_moved=f"https://{host}/videoplayback?{{query}}")
    failure = (await fail(fetcher, order_for(youtube, tmp_path))).failure
    assert (failure.code, failure.retryable) == ("address_forbidden", False)


async def test_an_address_with_other_letters_is_sent_as_the_protocol_wants_it(
    fetcher: Fetcher, youtube: YouTube, tmp_path: Path
) -> None:
    youtube.misbehave(media_moved="/videoplayback?{query}&name=ü ß")
    done, _, _ = await fetch(fetcher, order_for(youtube, tmp_path))
    assert done.size_bytes


async def test_a_site_that_redirects_for_ever_is_given_up(fetcher: Fetcher, youtube: YouTube, tmp_path: Path) -> None:
    youtube.misbehave(media_moved="/videoplayback?again")
    assert (await fail(fetcher, order_for(youtube, tmp_path))).failure.code in ("upstream_error", "upstream_forbidden")
