"""What the Hub refused, in one line and without a token."""

from __future__ import annotations

from hfssl.data.sources import is_unreachable
from hfssl.errors import one_line

_HINTS = {
    401: "; the token is not valid or there is none: run `hf auth login` or set HF_TOKEN",
    403: "; the token has no right to write there",
    409: "; the repository was changed at the same time",
    429: "; the Hub asks to wait",
}


def hub_problem(error: BaseException) -> str:
    """An error of huggingface_hub, its HTTP library or the socket: the status, the Hub's own words, and what to do."""
    from huggingface_hub import get_token

    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # "Error while uploading 'x'"
        error = error.__cause__
    response = getattr(error, "response", None)
    if response is not None:
        words = getattr(error, "server_message", None) or response.reason_phrase
        text = f"{response.status_code} {one_line(ValueError(words))[:300]}{_HINTS.get(response.status_code, '')}"
    elif is_unreachable(error):
        text = f"the Hub was not reached, or the connection broke (offline?): {type(error).__name__}"
    else:
        text = one_line(error)[:300] or type(error).__name__
    return text.replace(get_token() or "\0", "***")
