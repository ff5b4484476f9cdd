"""What every word of a report means, for a reader who has not seen the paper; the text is templates/words.txt."""

from __future__ import annotations

from importlib.resources import files

__all__ = ["words"]


def words() -> list[tuple[str, str]]:
    """(word, meaning): in the file, a word on a line of its own and its meaning on the next, indented."""
    lines = (files("bnsweep.analysis") / "templates" / "words.txt").read_text(encoding="utf-8").splitlines()
    return [(word, meaning.strip()) for word, meaning in zip(lines[::2], lines[1::2], strict=True)]
