"""What the conformance suite finds of each store, and the manual's page that is made of it: docs/stores.md."""

import os
from typing import Any

import pytest

from fakes import REPOSITORY
from stores.kinds import KINDS

PAGE = REPOSITORY / "docs" / "stores.md"
WRITE = "CE_RANKER_WRITE_MATRIX"
COMMAND = f"{WRITE}=1 python -m pytest tests/stores/test_conformance.py"

FOUND: dict[str, dict[str, str]] = {}
"""By store and column, what a run found."""

SEARCHING = {
    "ranking": "ranking and scores",
    "top_k": "`top_k` above the size",
    "async": "asynchronous, many at once",
    "many": "10,500 documents",
    "listing": "of these in its own listing",
    "embedding": "hits with embeddings",
}
WRITING = {
    "refresh": 'a change is seen with `refresh="auto"`',
    "duplicate": "an id again, without a policy",
    "no_content": "no content",
    "no_embedding": "no embedding",
    "written_back": "records of results written back",
}
PIPELINES = {
    "hybrid": "ranker and joiner behind it",
    "yaml": "loaded from YAML it has",
    "close": "after `close()` it has",
}

HEAD = """\
# Document stores

`BM25Retriever` runs over any Haystack document store. One suite of tests runs over all that can be had without a
network: stores in the process, a real PostgreSQL with pgvector, and a real OpenSearch. The suite makes these tables,
and each run compares them with what it finds. This command writes them:

```shell
{command}
```

`constraints.txt` has the versions of the stores. Elasticsearch was not run: its client talks to no other server, and
there is none for the tests. What `BM25Retriever` asks its store for is tested over an OpenSearch server, through a
proxy that changes the headers (`tests/components/test_opensearch_server.py`).

Everywhere `engine="bm25s"` is used, so that rankings can be compared.
[BM25Retriever](components/bm25_retriever.md) says what a store's own engine does.

## Searching

{searching}

- **Ranking and scores:** equal to those over the in-memory store, to the last bit. Equal scores keep the store's order.
- **Its own listing:** how many of 10,500 documents `filter_documents()` returns. `BM25Retriever` pages through stores
  that return 10,000 at most.
- **Hits with embeddings:** by the store's default settings. OpenSearch and Qdrant return them with
  `return_embedding=True`.

## Writing

{writing}

- **The next reading:** such a store tells only how many documents it has. So it is read again in the background, at
  most every `refresh_seconds`, or at once by `refresh_index()`. A deleted document is left out at once, except over
  FAISS. With `refresh="every_run"`, the next run sees any change over every store.
- **No content:** no query finds such a document. Milvus makes an empty text of it, which counts in the mean length of
  the documents.
- **No embedding:** BM25 finds such a document everywhere. Milvus lite refuses a batch in which no document has an
  embedding, unless the collection has 128 dimensions.
- **Records of results written back:** whether `meta["ce_ranker"]` is as it was when documents that a pipeline returned
  are read again. Chroma takes no nested meta. It drops such fields, the record among them, and its warning names them.
  Records of an earlier run change no later ranking.

## In a pipeline

{pipelines}

- **YAML:** FAISS and Qdrant's `:memory:` hold their documents in the process, so the YAML does not have them. An
  ephemeral Chroma has them as long as one of its stores is open in the process. Since version 3, Haystack loads a class
  only from a package that it trusts. It has to be told to trust Milvus's:
  `Pipeline.loads(text, allowed_modules=["milvus_haystack"])`.

## Filters

The store evaluates a filter, so it means what it means there. *Yes*: it passes the same documents as in memory.
*Refused*: the store raises an error, and so does `run`.

{filters}

- *Not where it is absent*: documents that lack the field do not pass.
- *Finds nothing*: the store has no fields in fields (`meta.deep.part`), and says nothing. Chroma has dropped them when
  the document was written.
- Qdrant compares fractions by order alone. Its `NOT` passes documents that fulfil none of the conditions. Elsewhere
  `NOT` passes those that do not fulfil all of them.
"""


def note(stores: Any, column: str, value: str) -> None:
    """Note what was found of a store."""
    FOUND.setdefault(stores.name, {})[column] = value


def found(stores: Any, column: str) -> str:
    """Return what was noted of a store."""
    return FOUND[stores.name][column]


def lines(rows: list[list[str]]) -> str:
    """Return a table of the page, its titles first."""
    head, *rest = (f"| {' | '.join(row)} |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def by_store(columns: dict[str, str]) -> str:
    """Return a table with a row for each store."""
    rows = [[kind.title, *(FOUND[name][column] for column in columns)] for name, kind in KINDS.items()]
    not_run = ["Elasticsearch", *("not run" for _ in columns)]
    return lines([["store", *columns.values()], *rows, not_run])


def page(filters: list[str]) -> str:
    """Return the page that this run makes."""
    titles = [kind.title.partition(",")[0] for kind in KINDS.values()]
    rows = [[column, *(FOUND[name][column] for name in KINDS)] for column in filters]
    return HEAD.format(
        command=COMMAND,
        searching=by_store(SEARCHING),
        writing=by_store(WRITING),
        pipelines=by_store(PIPELINES),
        filters=lines([["filter", *titles], *rows]),
    )


def compare(filters: list[str]) -> None:
    """Compare the page with what this run found, or write it; skip after a run over a part of the stores."""
    columns = {*SEARCHING, *WRITING, *PIPELINES, *filters}
    lacking = [name for name in KINDS if FOUND.get(name, {}).keys() != columns]
    if lacking:
        # CI installs all but OpenSearch, which it has where the shared folder lies beside the checkout.
        end = pytest.fail if "CI" in os.environ and lacking != ["opensearch"] else pytest.skip
        end(f"not everything was run over {', '.join(lacking)}")
    if os.environ.get(WRITE):
        PAGE.write_text(page(filters), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(filters), f"write it anew: {COMMAND}"
