"""The page on faults: every row of its tables names tests that are there."""

import ast
import re

import pytest

from fakes import REPOSITORY

PAGE = (REPOSITORY / "docs" / "faults.md").read_text(encoding="utf-8")
ROWS = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what happens |")]
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", PAGE)))


def test_each_row_has_four_cells_and_names_a_test():
    assert len(ROWS) > 30
    for row in ROWS:
        cells = re.split(r"(?<!\\)\|", row.strip().strip("|"))
        assert len(cells) == 4, row
        assert "::test_" in cells[3], row
        assert all(cell.strip() for cell in cells), row


@pytest.mark.parametrize("file", sorted({file for file, _ in NAMED}))
def test_each_test_that_a_row_names_is_there(file):
    tree = ast.parse((REPOSITORY / "tests" / file).read_text(encoding="utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert {name for named, name in NAMED if named == file} <= there
