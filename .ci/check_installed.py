"""
Loads a pipeline from YAML with the packages that are installed beside this Python, ranks, and says what they take.

    python -I .ci/check_installed.py EXAMPLES [REQUIREMENTS]

Ends with an error if `pip check` finds anything. With REQUIREMENTS, the file that was installed without dependencies,
only what that file says it leaves out may be missing.
"""

import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

QUERY = "releasing the brake by hand"
BEST = "man-railcar"


def main(examples: Path, requirements: Path | None) -> None:
    """Check this environment and print one line."""
    left_out = set() if requirements is None else set(re.findall(r"^#   ([\w-]+):", requirements.read_text(), re.M))
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    missing = set(re.findall(r" requires ([\w-]+), which is not installed", done.stdout))
    clean = ("is not installed", "No broken requirements")
    others = [line for line in done.stdout.splitlines() if not any(part in line for part in clean)]
    if others or missing - left_out:
        sys.exit(f"pip check:\n{done.stdout}")

    started = time.perf_counter()
    from haystack import Document, Pipeline

    pipeline = Pipeline.loads((examples / "pipeline.yaml").read_text(encoding="utf-8"))
    corpus = (examples / "handbook" / "corpus.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in corpus.splitlines()]
    documents = [Document(id=row["_id"], content=f"{row['title']}\n{row['text']}") for row in rows]
    pipeline.get_component("bm25_retriever").document_store.write_documents(documents)
    found = pipeline.run({"bm25_retriever": {"query": QUERY}, "ranker": {"query": QUERY}})["joiner"]["documents"]
    seconds = time.perf_counter() - started
    if found[0].id != BEST:
        sys.exit(f"{BEST} is expected first, but got {found[0].id}.")

    from haystack_ce_ranker import __file__ as place

    if Path(sys.prefix) not in Path(place).parents:
        sys.exit(f"{place} was imported, which is not in {sys.prefix}.")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch = "with" if "torch" in sys.modules else "without"
    lacking = f", pip check names {len(missing)} missing" if missing else ", pip check clean"
    print(f"{torch} torch: YAML loaded and ranked in {seconds:.1f} s, peak memory {peak:.0f} MB{lacking}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
