"""The whole API as one table: every address, who may call it, what it takes and what it answers.

A row drives authorisation, decoding, encoding and the OpenAPI document, so the policy is read here and
nowhere else.
"""

from ytdl.api import service
from ytdl.api.http import Route

ROUTES: tuple[Route, ...] = (
    # service
    Route("GET", "/healthz", service.healthz, "anyone", returns=dict[str, str], plain=True),
)
