"""What an error says where torch is needed and not installed. Most of the package runs without it."""

from importlib.util import find_spec

PACKAGES = {"torch": "torch", "sentence_transformers": "sentence-transformers"}
"""What the torch backend, training and conversions import, by the name under which pip installs it."""


def require_torch(what: str, instead: str = "") -> None:
    """
    Check that torch and sentence-transformers are installed.

    :param what: What needs them, as the error's subject.
    :param instead: A sentence that says what runs without them.
    :raises ImportError: If one of them is not. The error says how to install both.
    """
    missing = [name for package, name in PACKAGES.items() if find_spec(package) is None]
    if missing:
        are = "is" if len(missing) == 1 else "are"
        line = f"{what} needs {' and '.join(missing)}, which {are} not installed: pip install {' '.join(missing)}."
        raise ImportError(f"{line} {instead}".rstrip())
