"""Other people's errors within one-sentence messages of ours."""

__all__ = ["one_line"]


def one_line(error: BaseException, limit: int = 300) -> str:
    """The error's words on one line, at most `limit` characters of them; its type where it has none."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
