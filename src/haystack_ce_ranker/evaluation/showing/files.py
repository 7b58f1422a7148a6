"""What an evaluation writes beside its report: results.json, and a run file in TREC format for each system."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.judging.comparison import Rankings
from haystack_ce_ranker.evaluation.judging.observations import Observed
from haystack_ce_ranker.evaluation.judging.results import Results, to_plain


def write(folder: str | Path, found: Results, systems: Sequence[Observed]) -> list[Path]:
    """Write results.json and the run files; returns the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "results.json"]
    write_text(paths[0], json.dumps(to_plain(found), indent=1, allow_nan=False) + "\n")
    for system in systems:
        path = folder / f"run.{re.sub(r'[^A-Za-z0-9._-]+', '-', system.name)}.trec"
        write_text(path, trec(system.rankings, path.stem))
        paths.append(path)
    return paths


def trec(rankings: Rankings, tag: str) -> str:
    """Return a run in TREC's six columns, parted by spaces, or by tabs where an id holds a space."""
    rows = [
        (query_id, "Q0", document_id, str(rank), repr(score), tag)
        for query_id, ranking in rankings.items()
        for rank, (document_id, score) in enumerate(ranking.items(), start=1)
    ]
    blank = "\t" if any(re.search(r"\s", row[0] + row[2]) for row in rows) else " "
    return "".join(blank.join(re.sub(r"[\t\r\n]", " ", cell) for cell in row) + "\n" for row in rows)
