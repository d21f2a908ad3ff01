"""Options that several verbs have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import cyclopts

Flag: TypeAlias = Annotated[bool, cyclopts.Parameter(negative=(), show_default=False)]
"""What is said or not; there is no --no-."""

Output: TypeAlias = Annotated[Path | None, cyclopts.Parameter(name=["--output", "-o"])]
"""The file to be written."""
