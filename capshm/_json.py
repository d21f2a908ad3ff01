"""JSON as packets have it, by the compiled half of the standard library's `json` alone.

The package around it imports regular expressions, which alone take as long as an interpreter needs to start, and
it makes a new encoder for every packet. Where Python is built without the compiled half, the package does it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

read: Callable[[str], dict[str, object]]
"""The object that a packet holds; ValueError or StopIteration if it holds none."""

write: Callable[[object], str]
"""A packet of dicts, sequences, str, int, bool and None; TypeError for anything else."""


class _Plain:
    """How the scanner is to read: what json.JSONDecoder has by default."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float
    memo: dict[str, str] = {}  # noqa: RUF012  # the scanner empties it


def _refuse(value: object) -> object:
    raise TypeError(f"{type(value).__name__} does not travel in a packet")


try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner

    _scan = make_scanner(_Plain)  # type: ignore[arg-type]  # typeshed describes the package's own use
    _encode = make_encoder(None, _refuse, encode_basestring_ascii, None, ":", ",", False, False, False)
except (ImportError, TypeError, AttributeError):
    import json

    read = json.loads
    write = json.JSONEncoder(separators=(",", ":")).encode
else:

    def _read(text: str) -> dict[str, object]:
        found: dict[str, object] = _scan(text, 0)[0]
        return found

    def _write(value: object) -> str:
        return "".join(_encode(value, 0))

    read, write = _read, _write
