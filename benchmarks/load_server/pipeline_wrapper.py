"""
What `load.py` lets hayhooks serve, for each system alike: the pipeline.yml beside this file, on a request's documents.

hayhooks hands documents over as dictionaries, which only our ranker reads; so they become documents here.
"""

from pathlib import Path
from typing import Any

from fastapi import HTTPException
from hayhooks import AsyncPipeline, BasePipelineWrapper
from haystack import Document
from haystack.core.errors import PipelineRuntimeError

from haystack_ce_ranker import OverloadError


class PipelineWrapper(BasePipelineWrapper):
    """POST {"query": ..., "documents": [...]} to /load_server/run."""

    def setup(self) -> None:
        """Load the pipeline and its model."""
        text = (Path(__file__).parent / "pipeline.yml").read_text(encoding="utf-8")
        self.pipeline = AsyncPipeline.loads(text)
        self.pipeline.warm_up()

    async def run_api_async(self, query: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
        """Rank the documents of a request."""
        given = [Document.from_dict(document) for document in documents]
        try:
            found = (await self.pipeline.run_async({"ranker": {"query": query, "documents": given}}))["ranker"]
        except PipelineRuntimeError as error:
            if isinstance(error.__cause__, OverloadError):
                raise HTTPException(503, str(error.__cause__)) from error
            raise
        scored = len(found["report"]["scored"]) if "report" in found else len(found["documents"])
        return {"documents": [one.to_dict(flatten=False) for one in found["documents"]], "scored": scored}
