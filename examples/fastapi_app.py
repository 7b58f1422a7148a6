"""
A search service with FastAPI around pipeline.yaml, over the handbook: warm before it answers, and 503 when it is busy.

    pip install "ce-ranker-haystack[onnx,offline,serve]"
    uvicorn --app-dir examples fastapi_app:app
    curl -s localhost:8000/search -H 'Content-Type: application/json' -d '{"query": "releasing the brake by hand"}'
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import haystack
import yaml
from fastapi import FastAPI, HTTPException
from haystack import Document
from haystack.core.errors import PipelineRuntimeError
from pydantic import BaseModel, Field

from haystack_ce_ranker import OverloadError

EXAMPLES = Path(__file__).parent
AsyncPipeline = getattr(haystack, "AsyncPipeline", haystack.Pipeline)  # one class from Haystack 3 on
LIMITS = {"max_waiting": 32, "deadline_ms": 2000, "on_overload": "error"}
"""Of the ranker: how many requests may wait, and for how long at most, before one is refused."""


class Question(BaseModel):
    """What a client sends."""

    query: str = Field(max_length=2_000)
    top_k: int = Field(default=10, ge=1, le=50)


class Answer(BaseModel):
    """The best documents, and what the ranker read, left out and took: docs/report.md explains the report."""

    documents: list[dict[str, Any]]
    report: dict[str, Any]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the pipeline, the documents and the model before the first request is taken."""
    described = yaml.safe_load((EXAMPLES / "pipeline.yaml").read_text(encoding="utf-8"))
    described["components"]["ranker"]["init_parameters"] |= LIMITS
    pipeline = AsyncPipeline.from_dict(described)
    lines = (EXAMPLES / "handbook" / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    documents = [Document(id=row["_id"], content=f"{row['title']}\n{row['text']}") for row in rows]
    pipeline.get_component("bm25_retriever").document_store.write_documents(documents)
    await asyncio.to_thread(pipeline.warm_up)
    app.state.pipeline = pipeline
    yield
    for name in ("bm25_retriever", "ranker", "joiner"):
        await pipeline.get_component(name).close_async()


app = FastAPI(title="Handbook search", lifespan=lifespan)


@app.get("/health")
async def health() -> dict[str, str]:
    """Answer once the model is loaded; before that the server takes no connection."""
    return {"status": "ready"}


@app.post("/search")
async def search(question: Question) -> Answer:
    """Rank the documents for a query."""
    asked = {
        "bm25_retriever": {"query": question.query},
        "ranker": {"query": question.query},
        "joiner": {"top_k": question.top_k},
    }
    try:
        found = await app.state.pipeline.run_async(asked, include_outputs_from={"ranker"})
    except PipelineRuntimeError as error:
        if isinstance(error.__cause__, OverloadError):
            raise HTTPException(503, str(error.__cause__), headers={"Retry-After": "1"}) from error
        raise
    documents = [document.to_dict(flatten=False) for document in found["joiner"]["documents"]]
    return Answer(documents=documents, report=found["ranker"]["report"])
