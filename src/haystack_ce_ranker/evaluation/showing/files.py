"""What an evaluation writes beside its report: results.json, and a run file in TREC format for each system."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from haystack_ce_ranker.evaluation.judging.observations import Observed
from haystack_ce_ranker.evaluation.judging.results import Results, to_plain


def write(folder: str | Path, found: Results, systems: Sequence[Observed]) -> list[Path]:
    """Write results.json and the run files; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "results.json"]
    paths[0].write_text(json.dumps(to_plain(found), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    for system in systems:
        path = folder / f"run.{re.sub(r'[^A-Za-z0-9._-]+', '-', system.name)}.trec"
        lines = [
            f"{query_id} Q0 {document_id} {rank} {score!r} {path.stem}\n"
            for query_id, ranking in system.rankings.items()
            for rank, (document_id, score) in enumerate(ranking.items(), start=1)
        ]
        path.write_text("".join(lines), encoding="utf-8")
        paths.append(path)
    return paths
