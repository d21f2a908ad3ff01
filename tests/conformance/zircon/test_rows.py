"""Every row of section 3 of vmar.md has a test that bears its name, or a reason here why it has none."""

import ast
import re
from pathlib import Path

NUMBERS = {
    "A": (1, 2, 4, 7, 9, 10, 11, 13, 14),
    "M": (1, 2, 3, 5, 8, 9, 10, 12, 14, 15, 16, 18),
    "I": (1, 2, 4, 6, 7, 8, 10, 12, 13),
    "P": (1, 3, 4, 6, 8, 10, 12, 14, 15),
    "R": (1, 3, 4, 7, 9, 11, 14, 15, 17, 19, 21, 23),
    "D": (1, 3, 5, 8, 10, 11, 13, 15, 17, 19, 21, 23, 25),
    "U": (1, 2, 4, 5, 7, 9, 11, 12),
    "O": (1, 2, 3, 5, 6, 7, 9, 11, 12, 13, 16),
    "S": (1, 2, 4, 6, 7, 9, 10, 12, 13, 15, 17, 18, 20, 21, 24, 25, 26, 28),
}
ROWS = [f"{letter}{number:02}" for letter, numbers in NUMBERS.items() for number in numbers]
LEFT_OUT: dict[str, str] = {}
"""Rows that have no test, and why. Of S06 and S28 what is about C buffers cannot be expressed (api.md 5)."""
_NAME = re.compile(r"test_([A-Z]\d\d)_")


def named_tests() -> list[tuple[str, ast.FunctionDef]]:
    """The tests of this folder that are named by a row."""
    return [
        (match[1], node)
        for path in sorted(Path(__file__).parent.glob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and (match := _NAME.match(node.name))
    ]


def test_every_row_has_a_test_or_a_reason() -> None:
    """No row is forgotten, and none has both a test and a reason to have none."""
    tested = {row for row, _ in named_tests()}
    assert [row for row in ROWS if row not in tested and row not in LEFT_OUT] == []
    assert sorted(tested & set(LEFT_OUT)) == []


def test_every_name_is_a_row() -> None:
    """No test is named by a row that does not exist, no reason is given for one, and no row has two tests."""
    named = [row for row, _ in named_tests()]
    assert sorted(named) == sorted(set(named))
    assert sorted((set(named) | set(LEFT_OUT)) - set(ROWS)) == []


def test_every_test_of_a_row_says_which() -> None:
    """The docstring of each such test begins with its row."""
    for row, node in named_tests():
        assert re.match(rf"{row}\b", ast.get_docstring(node) or ""), node.name
