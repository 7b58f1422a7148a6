"""Finds the files of a collection in its folder: BEIR's layout, packed or not, and that of the Hugging Face Hub."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from haystack_ce_ranker.data.sources import Source
from haystack_ce_ranker.data.tables import EXPECTED_QRELS

EXPECTED_FOLDER = (
    'corpus.jsonl    a document a line: {"_id": "d1", "title": "Returns", "text": "Goods can be sent back."}',
    'queries.jsonl   a query a line: {"_id": "q1", "text": "how do I send something back"}',
    "qrels/test.tsv  judgments: query-id, corpus-id and score, parted by tabs, below a header of these names",
)

_OBJECTS = (".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet")
_TABLES = (".tsv", ".tsv.gz", ".tsv.zst", ".txt", *_OBJECTS)
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.zst", ".7z", ".rar")
_SHARD = re.compile(r"(.+)-\d+-of-(\d+)")
_SHOWN = 8  # names of files in an error


@dataclass(frozen=True, slots=True)
class Files:
    """
    The files of a collection, several where one is in parts.

    :ivar unread: What lies beside them under the same name, and is left unread.
    """

    corpus: Sequence[Path]
    queries: Sequence[Path]
    judgments: Sequence[Path]
    unread: Sequence[Path]


def find(folder: Path, split: str | None, *, judged: bool = True) -> Files:
    """
    Find a collection's files.

    :param split: The judgments to use; by default `test`, or the only ones there are.
    :param judged: Whether queries and judgments must be there, too. If not, a `split` that is named still must be.
    :raises CollectionError: If a file or a part of one is missing.
    """
    unread: list[Path] = []
    found = _texts(folder, unread, required=("corpus", "queries") if judged else ("corpus",), judged=judged)
    splits = _splits(folder / "qrels", unread)
    judgments: Sequence[Path] = ()
    if judged or split is not None or splits:
        judgments = _chosen(Source(folder / "qrels", EXPECTED_QRELS), splits, split)
    return Files(found["corpus"], found["queries"], judgments, unread)


def find_texts(folder: Path) -> Files:
    """
    Find the files of a collection's documents and queries; judgments are not looked for.

    :raises CollectionError: If a file or a part of one is missing.
    """
    unread: list[Path] = []
    found = _texts(folder, unread, required=("corpus", "queries"), judged=False)
    return Files(found["corpus"], found["queries"], (), unread)


def _texts(folder: Path, unread: list[Path], *, required: Sequence[str], judged: bool) -> dict[str, list[Path]]:
    """Find the files of documents and queries, and make sure that those are there that must be."""
    source = Source(folder, EXPECTED_FOLDER)
    if not folder.is_dir():
        raise source.error(
            f"it is a file, not a folder{_way_out(folder)}" if folder.exists() else "there is no such folder"
        )
    found = {name: _parts(folder, name, _OBJECTS, unread) for name in ("corpus", "queries")}
    missing = [f"{name}.jsonl" for name, files in found.items() if not files and name in required]
    missing += [] if (folder / "qrels").is_dir() or not judged else ["qrels"]
    if missing:
        names = sorted(path.name for path in folder.iterdir())
        shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
        problem = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing (found: {shown or 'nothing'})"
        packed = next((path for path in sorted(folder.iterdir()) if path.name.lower().endswith(_ARCHIVES)), None)
        raise source.error(problem + _way_out(folder if packed is None else packed))
    return found


def _way_out(path: Path) -> str:
    """Return what makes a collection of what is there; nothing where no command of ours can."""
    name, file = path.name.lower(), shlex.quote(str(path))
    if name.endswith(_ARCHIVES):
        return f"; unpack {path.name} first, and name the folder that comes out of it"
    if path.is_dir():
        return "; `haystack-ce-ranker convert` makes such a folder of TREC files or of a CSV"
    if all(any(path.parent.glob(f"{part}*")) for part in ("corpus", "queries", "qrels")):
        return f"; name its folder, {path.parent}"
    if name.endswith((".csv", ".csv.gz", ".csv.zst")):
        return f"; `haystack-ce-ranker convert csv {file} FOLDER` makes such a folder of it"
    if name.endswith(_TABLES):
        command = f"haystack-ce-ranker convert trec --documents {file} --topics TOPICS --qrels QRELS FOLDER"
        return f"; `{command}` makes such a folder of it"
    return ""


def _parts(folder: Path, name: str, suffixes: Sequence[str], unread: list[Path]) -> list[Path]:
    """Return the files under a name: one file, or all of a folder."""
    found = [path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file()]
    inside = sorted(path for path in (folder / name).glob("[!.]*") if path.name.lower().endswith(tuple(suffixes)))
    if found:
        unread += [*found[1:], *inside]
        return found[:1]
    return [path for files in _stems(inside, suffixes, unread).values() for path in files]


def _splits(qrels: Path, unread: list[Path]) -> dict[str, list[Path]]:
    files = sorted(path for path in qrels.glob("[!.]*") if path.is_file() and path.name.lower().endswith(_TABLES))
    found = _stems(files, _TABLES, unread)
    for folder in sorted(path for path in qrels.glob("[!.]*") if path.is_dir() and path.name not in found):
        if inside := _parts(qrels, folder.name, _TABLES, unread):
            found[folder.name] = inside
    return found


def _stems(files: Sequence[Path], suffixes: Sequence[str], unread: list[Path]) -> dict[str, list[Path]]:
    """
    Sort files by their names without suffix and number of a part; of several suffixes the first is kept.

    :raises CollectionError: If the names say that there are parts which are missing.
    """
    found: dict[str, list[Path]] = {}
    for suffix in suffixes:
        parts: dict[tuple[str, int], list[Path]] = {}
        for path in files:
            if path.name.lower().endswith(suffix):
                stem = path.name[: -len(suffix)]
                part = _SHARD.fullmatch(stem)
                parts.setdefault((part[1], int(part[2])) if part else (stem, 1), []).append(path)
        for (stem, of), paths in parts.items():
            if len(paths) != of:
                source = Source(paths[0], tuple(_part_name(paths[0].name, number) for number in range(min(of, 3))))
                raise source.error(f"it is one of {of} parts, but {len(paths)} of them are there")
            if stem in found:
                unread += paths
            else:
                found[stem] = paths
    return found


def _part_name(name: str, number: int) -> str:
    return re.sub(r"-(\d+)(?=-of-)", lambda digits: f"-{number:0{len(digits[1])}}", name)


def _chosen(qrels: Source, splits: dict[str, list[Path]], split: str | None) -> list[Path]:
    wanted = "test" if split is None else split
    if wanted in splits:
        return splits[wanted]
    found = sorted(path.name for files in splits.values() for path in files)
    if split is not None:
        named = ", ".join(sorted(splits)) or "none"
        missing = Source(qrels.path / f"{split}.tsv", qrels.expected)
        raise missing.error(f"there are no judgments named {split!r} (found: {named})")
    if len(splits) == 1:
        return next(iter(splits.values()))
    if found:
        raise qrels.error(
            f"it must hold test.tsv (found: {', '.join(found)}); name one with --split {sorted(splits)[0]}"
        )
    raise qrels.error("there are no judgments: it must hold test.tsv")
