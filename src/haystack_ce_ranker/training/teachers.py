"""
Logits of one or several teachers, kept in a journal as soon as they are known, so that a killed run goes on.

A logit is found again by the teacher's files, its reading policy, the query and the document. So other settings of
mining find it, too.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions, locate
from haystack_ce_ranker.checks import is_finite
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.reading.documents import content_key
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.requests import Progress
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.groups import Group
from haystack_ce_ranker.training.passages import PassageReader, Request, Shown

Judge = Callable[[Sequence[Request]], list[list[Shown]]]
"""Tells of each document of each query what a teacher reads of it, and its logit."""

Noted = tuple[str | None, float | None]
"""What the journal keeps of a document: the text that was read, None for the whole document, and its logit."""

PART = 1000
"""About how many documents are scored before their logits are written down: what a kill may lose."""


@dataclass(frozen=True)
class Teacher:
    """
    A loaded teacher.

    :ivar name: For messages.
    :ivar key: Names all that its logits depend on beside the texts.
    """

    name: str
    key: str
    reader: PassageReader

    @classmethod
    def load(
        cls,
        options: ModelOptions,
        policy: ReadingPolicy | None = None,
        *,
        backend: str = "torch",
        most: int | None = None,
    ) -> "Teacher":
        """
        Load a cross-encoder as a teacher.

        :param policy: How it reads long documents; None for the ranker's defaults.
        :param most: The most tokens of a pair that it reads in any case; None for what the policy says.
        :raises ValueError: If it is no model that gives one logit.
        :raises OSError: If it is not there.
        """
        loaded = loading.load(backend, options)
        scorer = CrossEncoderScorer(loaded, policy)
        if most is not None and scorer.max_length > most:
            scorer = CrossEncoderScorer(loaded, replace(scorer.policy, max_length=most))
        how = (loaded.name, loaded.dtype, loaded.device, loaded.prompt, loaded.query_prompt, str(options.label))
        read = (str(scorer.max_length), repr(scorer.policy))
        is_remote = loading.BACKENDS[backend].takes_key
        files = options.model if is_remote else contents_key(options.model, options.revision)
        key = content_key(files, *map(str, how), *read)
        return cls(options.model, key.hex(), PassageReader(scorer))


class KeptJudge:
    """
    A teacher as a `Judge` that asks only for what its journal lacks.

    :param progress: Called with the number of documents done so far in a call, and of all documents of the call.
    :param part: About how many documents are scored before they are noted; None for `PART`.
    :ivar asked: How many documents the teacher scored.
    :ivar kept: How many were taken from the journal instead.
    """

    def __init__(
        self, teacher: Teacher, journal: Journal, *, progress: Progress | None = None, part: int | None = None
    ) -> None:
        self.teacher = teacher
        self.asked = self.kept = 0
        self._journal = journal
        self.progress = progress
        self._part = PART if part is None else part

    @cached_property
    def _known(self) -> dict[str, Noted]:
        """What the journal holds of this teacher, by the key of query and document."""
        parts = self._journal.values(self.teacher.key, _part)
        return {key: noted for part in parts if part is not None for key, noted in part.items()}

    def __call__(self, requests: Sequence[Request]) -> list[list[Shown]]:
        """
        Return what the teacher reads of each document, with its logit.

        The same call after a kill scores the same documents together, and so gives the same bits: a part is noted
        whole or not at all.
        """
        keys = [[pair_key(query, document) for document in documents] for query, documents in requests]
        total = len({key for of_query in keys for key in of_query})
        missing = self._missing(requests, keys)
        count = sum(len(one.documents) for one in missing)
        done = total - count
        self.kept += done
        self.asked += count
        for part in _parts(missing, self._part):
            self._score(part, done, total)
            done += sum(len(one.documents) for one in part)
        return [
            [self._shown(key, document) for key, document in zip(of_query, documents, strict=True)]
            for of_query, (_, documents) in zip(keys, requests, strict=True)
        ]

    def _shown(self, key: str, document: str) -> Shown:
        text, logit = self._known[key]
        return Shown(document if text is None else text, logit)

    def _missing(self, requests: Sequence[Request], keys: Sequence[Sequence[str]]) -> list["_Asked"]:
        """Return of each query the documents that are not known, each once."""
        missing, met = [], set(self._known)
        for (query, documents), of_query in zip(requests, keys, strict=True):
            new = {key: one for key, one in zip(of_query, documents, strict=True) if key not in met}
            met |= new.keys()
            if new:
                missing.append(_Asked(query, new))
        return missing

    def _score(self, part: Sequence["_Asked"], before: int, total: int) -> None:
        def tell(done: int, _of: int) -> None:
            if self.progress is not None:
                self.progress(before + done, total)

        requests = [(one.query, list(one.documents.values())) for one in part]
        found = self.teacher.reader.best_of_many(requests, progress=tell)
        fresh: dict[str, Noted] = {
            key: (None if shown.text == document else shown.text, shown.logit)
            for one, of_query in zip(part, found, strict=True)
            for (key, document), shown in zip(one.documents.items(), of_query, strict=True)
        }
        self._journal.note(self.teacher.key, content_key(*fresh).hex(), fresh)
        self._known.update(fresh)
        tell(len(fresh), total)


class _Asked(NamedTuple):
    """A query with documents to score, by their keys."""

    query: str
    documents: Mapping[str, str]


def _parts(asked: Sequence[_Asked], size: int) -> Iterator[list[_Asked]]:
    """Yield consecutive queries that together have about `size` documents."""
    part: list[_Asked] = []
    for one in asked:
        part.append(one)
        if sum(len(some.documents) for some in part) >= size:
            yield part
            part = []
    if part:
        yield part


def several(judges: Sequence[Judge]) -> Judge:
    """
    Return a judge that is the mean of several teachers.

    The first one decides what is read of a document, and the others score that text. Teachers have scales of their
    own: the logits of each further one are brought to the mean and the deviation of the first one's logits over all
    documents of a call. A document that one of them cannot read has no logit.
    """
    if not judges:
        raise ValueError("judges must hold at least one teacher, but is empty.")

    def judge(requests: Sequence[Request]) -> list[list[Shown]]:
        first, *others = judges
        shown = first(requests)
        texts = [(query, [one.text for one in of_query]) for (query, _), of_query in zip(requests, shown, strict=True)]
        columns = [_column(shown), *(_column(other(texts)) for other in others)]
        known = np.isfinite(columns).all(axis=0)
        if not known.any():
            return [[one._replace(logit=None) for one in of_query] for of_query in shown]
        centre, spread = columns[0][known].mean(), columns[0][known].std()
        scaled = [columns[0]]
        for column in columns[1:]:
            own = column[known].std()
            scaled.append((column - column[known].mean()) / (own if own > 0 else 1.0) * spread + centre)
        means = iter(np.where(known, np.mean(scaled, axis=0), np.nan).tolist())
        return [[one._replace(logit=_or_none(next(means))) for one in of_query] for of_query in shown]

    return judge if len(judges) > 1 else judges[0]


def taught(groups: Sequence[Group], judge: Judge) -> list[Group]:
    """
    Return groups with the text that the teacher reads of each document, and its logit.

    Documents that it cannot read are left out, and groups of which nothing is left.
    """
    found = judge([(group.query, [one.text for one in group.candidates]) for group in groups])
    made = []
    for group, of_group in zip(groups, found, strict=True):
        candidates = tuple(
            replace(one, text=shown.text, teacher=shown.logit)
            for one, shown in zip(group.candidates, of_group, strict=True)
            if shown.logit is not None
        )
        if candidates:
            made.append(replace(group, candidates=candidates))
    return made


def pair_key(query: str, document: str) -> str:
    """Return a short key for a query and a document's text."""
    return content_key(query, document).hex()


def contents_key(model: str, revision: str | None = None) -> str:
    """
    Return a key for the files of a model, wherever they lie: a copy has the same.

    A model of the hub is looked for in the cache. If it is not there, it goes by its name.
    """
    place = Path(locate(model))
    folder = place if place.is_dir() else _cached_folder(model, revision)
    if folder is None:
        return f"{model} {revision}"
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(one for one in folder.rglob("*") if one.is_file()):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _cached_folder(model: str, revision: str | None) -> Path | None:
    """Return the folder of a hub's model in the cache, or None."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, "config.json", revision=revision)
    return Path(found).parent if isinstance(found, str) else None


def _column(shown: Sequence[Sequence[Shown]]) -> NDArray[np.float64]:
    """Return the logits of all documents in one row, NaN where there is none."""
    return np.array([np.nan if one.logit is None else one.logit for of_query in shown for one in of_query], np.float64)


def _or_none(value: float) -> float | None:
    return None if np.isnan(value) else value


def _part(plain: Mapping[str, Any]) -> dict[str, Noted]:
    """Return what a journal holds of a part, if it has that form."""
    part = {key: (text, logit) for key, (text, logit) in plain.items()}
    for text, logit in part.values():
        if not isinstance(text, str | None) or not (logit is None or is_finite(logit)):
            raise ValueError(f"a text and a logit are {text!r:.40} and {logit!r:.40}")
    return part
