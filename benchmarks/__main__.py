"""
Runs all benchmarks; `run_all.py` says how.

    python -m benchmarks --quick
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from run_all import main

if __name__ == "__main__":
    main()
