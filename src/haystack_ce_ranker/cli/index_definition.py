"""`haystack-ce-ranker index-definition`: print an index of Lucene's that ranks as ours."""

from enum import StrEnum
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors


class Form(StrEnum):
    """How the definition is printed."""

    YAML = "yaml"
    JSON = "json"


def index_definition(
    language: Annotated[str, typer.Option(help="Of the stemmer and stop words; none for neither.")] = "english",
    tokenization_regex: Annotated[str | None, typer.Option(help="What a word looks like.")] = None,
    k1: Annotated[float, typer.Option(help="How slowly repetitions saturate.")] = 1.2,
    b: Annotated[float, typer.Option(help="How much a document's length counts.")] = 0.75,
    form: Annotated[
        Form, typer.Option(help="yaml for the init_parameters of OpenSearchDocumentStore, json for PUT /index.")
    ] = Form.YAML,
) -> None:
    """Print the settings and mappings of an OpenSearch or Elasticsearch index that ranks as BM25Retriever's own."""
    import json

    import yaml

    from haystack_ce_ranker.bm25 import lucene

    with clear_errors():
        found = lucene.index_definition(
            language=None if language == "none" else language, tokenization_regex=tokenization_regex, k1=k1, b=b
        )
    if form is Form.JSON:
        typer.echo(json.dumps(found))
    else:
        typer.echo(
            yaml.safe_dump(found, width=120, allow_unicode=True, sort_keys=False, default_flow_style=None), nl=False
        )
