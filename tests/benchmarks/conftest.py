"""Lets the tests of this folder import the benchmarks, which are scripts and no package."""

import sys

from fakes import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.append(str(BENCHMARKS))
