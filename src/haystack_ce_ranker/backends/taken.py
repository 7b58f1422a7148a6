"""
Refuses options that a runtime does not use, in `model_kwargs`, `tokenizer_kwargs` and `config_kwargs`.

An option that has no effect is an error: whoever gave it expects one, and a misspelt name would never be found.
"""

from collections.abc import Collection, Mapping
from typing import Any

INSTEAD = {
    "revision": "the parameter revision says it",
    "token": "the parameter token says it",
    "use_auth_token": "the parameter token says it",
    "trust_remote_code": "the parameter trust_remote_code says it",
    "device": "the parameter device says it",
    "provider": "the parameter device chooses between the CPU and a GPU",
    "providers": "the parameter device chooses between the CPU and a GPU",
    "provider_options": "the parameter device chooses between the CPU and a GPU",
    "session_options": "the parameter threads says how many threads run",
    "cache_dir": "model_kwargs['cache_dir'] counts for all files of a model",
    "force_download": "model_kwargs['force_download'] counts for all files of a model",
    "local_files_only": "model_kwargs['local_files_only'] counts for all files of a model",
    "dtype": "the parameter dtype says it",
    "torch_dtype": "the parameter dtype says it",
    "max_length": "transformers calls it model_max_length, and the ranker's max_length says it, too",
    "max_len": "transformers calls it model_max_length, and the ranker's max_length says it, too",
    "truncation": "pairs are cut to max_length by the ranker",
    "truncation_side": "pairs are cut to max_length by the ranker",
    "padding": "batches are padded by the ranker",
    "padding_side": "batches are padded by the ranker",
}
"""What to do instead of giving one of these."""


def refuse_others(parameter: str, given: Mapping[str, Any], taken: Collection[str], who: str) -> None:
    """
    Check that a runtime uses all options of a parameter.

    :param parameter: Such as `model_kwargs`.
    :param taken: The names that it uses.
    :param who: Who uses them, for the error.
    :raises ValueError: If it does not use one. The error names all of these, and what can be given.
    """
    refuse(parameter, [key for key in given if key not in taken], f"{who} takes {', '.join(taken)}")


def refuse(parameter: str, useless: Collection[str], taken: str) -> None:
    """
    Raise an error if there are names that have no effect.

    :param taken: A sentence that says what can be given.
    :raises ValueError: If there are any.
    """
    if useless:
        hints = list(dict.fromkeys(INSTEAD[key] for key in useless if key in INSTEAD))
        listed = ", ".join(f"{parameter}[{key!r}]" for key in useless)
        raise ValueError(f"{listed} would have no effect: {'; '.join([*hints, taken])}. Remove it.")
