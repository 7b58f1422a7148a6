"""What counts as no text: nothing at all, or nothing but white space, control and invisible format characters."""

import unicodedata

_UNSEEN = frozenset({"Cc", "Cf", "Zl", "Zp", "Zs"})


def is_blank(text: str) -> bool:
    """Tell whether nobody would see anything of a text. Most texts begin with something, so this takes no time."""
    return all(unicodedata.category(character) in _UNSEEN for character in text)
