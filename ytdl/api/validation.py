"""Asking beforehand whether a value would be accepted."""

from aiohttp import web

from ytdl.validation import Question, Verdict, judge


async def validate(request: web.Request, body: Question) -> Verdict:
    """Find out whether a value would be accepted, by the rules that the other routes go by.

    The answer is 200 for both; `valid` says which. Nothing is looked up at the site: a valid URL may be of a video
    that does not exist. A text with a NUL character or half of a surrogate pair is refused like in any other body.
    """
    return judge(body)
