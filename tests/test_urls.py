"""Only an address of one video passes, and what goes on is built from its id."""

import pytest

from ytdl import errors, urls

ID = "dQw4w9WgXcQ"

GOOD = [
    f"https://www.youtube.com/watch?v={ID}",
    f"http://youtube.com/watch?v={ID}",
    f"HTTPS://WWW.YouTube.COM/watch?v={ID}",
    f"https://m.youtube.com/watch?app=desktop&v={ID}&t=42s",
    f"https://music.youtube.com/watch?v={ID}&list=RDAMVM{ID}",
    f"https://youtu.be/{ID}?si=abc",
    f"https://youtu.be/{ID}/",
    f"https://www.youtube.com/shorts/{ID}",
    f"https://www.youtube.com/live/{ID}?feature=share",
    f"https://www.youtube.com/embed/{ID}",
    f"https://www.youtube-nocookie.com/embed/{ID}",
    f"https://www.youtube.com/watch?v={ID}#t=1",
]

BAD = {
    "": "characters",
    "x" * 2049: "characters",
    "not a url": "space",
    ID: "https://",
    f"youtube.com/watch?v={ID}": "https://",
    ":ytsubs": "https://",
    ":ythistory": "https://",
    "ytsearch5:cats": "https://",
    "ytuser:someone": "https://",
    "file:///etc/passwd": "https://",
    "--batch-file=/etc/passwd": "https://",
    f"ftp://www.youtube.com/watch?v={ID}": "https://",
    f"javascript:alert(1)//www.youtube.com/watch?v={ID}": "https://",
    f"//www.youtube.com/watch?v={ID}": "https://",
    f"https://www.youtube.com.evil.example/watch?v={ID}": "address on",
    f"https://wwwyoutube.com/watch?v={ID}": "address on",
    f"https://yewtu.be/watch?v={ID}": "address on",
    f"https://127.0.0.1/watch?v={ID}": "address on",
    f"https://[::1]/watch?v={ID}": "address on",
    f"https://www.youtube.com:443/watch?v={ID}": "address on",
    f"https://www.youtube.com./watch?v={ID}": "address on",
    f"https://www%2eyoutube.com/watch?v={ID}": "address on",
    f"https://youtube.com@127.0.0.1/watch?v={ID}": "user name",
    f"https://user:pw@www.youtube.com/watch?v={ID}": "user name",
    f"https://www.youtube.com\\@evil.example/watch?v={ID}": "backslash",
    f"https://www.\N{CYRILLIC SMALL LETTER U}outube.com/watch?v={ID}": "ASCII",
    f"https://www.youtube.com/watch?v={ID}\n": "control",
    f"https://www.youtube.com/\twatch?v={ID}": "control",
    f" https://www.youtube.com/watch?v={ID}": "space",
    f"https://www.youtube.com/watch?v={ID}\x00": "control",
    "https://www.youtube.com/": "does not name",
    "https://www.youtube.com/watch": "does not name",
    "https://www.youtube.com/feed/subscriptions": "does not name",
    "https://www.youtube.com/@someone": "user name|does not name",
    "https://www.youtube.com/results?search_query=cats": "does not name",
    f"https://youtu.be/{ID}/more": "does not name",
    f"https://www.youtube-nocookie.com/watch?v={ID}": "does not name",
    "https://www.youtube.com/playlist?list=PL1234567890": "playlist",
    f"https://www.youtube.com/watch?v={ID}&v=aaaaaaaaaaa": "more than one",
    "https://www.youtube.com/watch?v=short": "video id",
    f"https://www.youtube.com/watch?v={ID}x": "video id",
    "https://www.youtube.com/watch?v=../../etc/x": "video id",
    f"https://www.youtube.com/watch?v={ID[:-1]}%0a": "video id",
    "https://[www.youtube.com/watch?v=x": "",
    "https://www.youtube.com/watch?" + "&".join(["a=1"] * 60): "",
}


@pytest.mark.parametrize("url", GOOD)
def test_an_address_of_a_video_becomes_canonical(url: str) -> None:
    assert urls.parse(url).canonical_url == f"https://www.youtube.com/watch?v={ID}"


@pytest.mark.parametrize("url", BAD)
def test_anything_else_is_refused_with_a_reason(url: str) -> None:
    with pytest.raises(errors.Invalid) as caught:
        urls.parse(url)
    assert caught.value.faults[0].field == "url"
    assert any(reason in caught.value.faults[0].message for reason in BAD[url].split("|"))


def test_the_playlist_that_a_video_was_taken_from_is_known() -> None:
    assert urls.parse(f"https://youtu.be/{ID}?list=PLabc").playlist_id == "PLabc"
