"""The reader of the broker's answers in C, with texts that no broker sends (tests/native/client_json.c)."""

import json
import random
import struct
import subprocess
from collections.abc import Iterator
from typing import NoReturn, TypeAlias

import pytest

from native import variants
from tests.client.programs import ROOT, STRICT

_DEPTH = 16
_WORD_END = 1 << 64
_TEXT_SIZE = 64
_MARKS = '{}[]",:\\u09-tfn e.\n\t\x00\x1f\x7f\u00e9\u20ac\U0001f600'

Value: TypeAlias = "bool | int | str | list[Value] | dict[str, Value] | None"


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The program, under the sanitizers if the compiler has them."""
    output = tmp_path_factory.mktemp("json") / "client_json"
    sanitizers = variants.ADDRESS_SANITIZER if variants.sanitizer_runtime() else ()
    sources = [ROOT / "tests/native/client_json.c", ROOT / "native/client/json.c"]
    command = ["cc", "-std=gnu11", "-O1", *STRICT, *sanitizers, f"-I{ROOT / 'native'}", *sources, "-o", output]
    subprocess.run(command, check=True)
    return str(output)


def _refuse(text: str) -> NoReturn:
    raise ValueError(text)


def _depth(value: Value) -> int:
    if not isinstance(value, (list, dict)):
        return 0
    return 1 + max(map(_depth, value.values() if isinstance(value, dict) else value), default=0)


def _as_text(value: str) -> str:
    """What fits, whole characters only, up to a zero; halves of pairs are replaced."""
    kept = value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").partition("\0")[0]
    size = 0
    for place, character in enumerate(kept):
        size += len(character.encode())
        if size >= _TEXT_SIZE:
            return kept[:place]
    return kept


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return f'"{_as_text(value)}"'
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + "".join(f"{_shown(each)}," for each in value) + "]"
    if isinstance(value, int):
        return str(value) if 0 <= value < _WORD_END else "?"
    members = value or {}
    return "?" + next((_shown(members[name]) for name in ("message", "refused", "n") if name in members), "")


def _expected(text: str) -> str:
    """What the program is to print, by the word of the standard library."""
    try:
        value = json.loads(
            text,
            parse_int=lambda digits: -1 if digits.startswith("-") else int(digits),
            parse_float=_refuse,
            parse_constant=_refuse,
            object_pairs_hook=_first_of_each,
        )
    except (ValueError, RecursionError):
        return "no"
    return _shown(value) if _depth(value) <= _DEPTH else "no"


def _first_of_each(pairs: list[tuple[str, Value]]) -> dict[str, Value]:
    return dict(reversed(pairs))


def _random_value(chance: random.Random, depth: int = 0) -> Value:
    kind = chance.randrange(5 if depth > 4 else 8)
    if kind == 0:
        return chance.choice([None, True, False])
    if kind == 1:
        return chance.choice([0, -1, 7, _WORD_END - 1, _WORD_END, 10**30, -(1 << 63), chance.getrandbits(64)])
    if kind < 5:
        return "".join(chance.choice(_MARKS + "abc" * 9) for _ in range(chance.choice([0, 3, 30, 70])))
    if kind < 7:
        return [_random_value(chance, depth + 1) for _ in range(chance.randrange(4))]
    names = ["n", "message", "refused", "errno", "\u00e9"]
    return {chance.choice(names): _random_value(chance, depth + 1) for _ in range(chance.randrange(4))}


def _texts(chance: random.Random) -> Iterator[str]:
    for depth in (_DEPTH, _DEPTH + 1, 1000):
        yield "[" * depth + "]" * depth
    for text in (
        "",
        " ",
        "01",
        "-",
        "-0",
        "1.0",
        "1e3",
        "nul",
        "true1",
        "[1,]",
        "{,}",
        '{"n" 1}',
        '"\\ud83d\\ude00\\ud83d"',
    ):
        yield text
    for _ in range(4000):
        text = json.dumps(_random_value(chance), ensure_ascii=chance.random() < 0.5, indent=chance.choice([None, 1]))
        for _ in range(chance.choice([0, 0, 1, 1, 3])):
            place = chance.randrange(len(text) + 1)
            text = text[:place] + chance.choice(["", chance.choice(_MARKS)]) + text[place + chance.randrange(2) :]
        if len(text.encode("utf-8", "replace")) <= 4096:
            yield text


@pytest.mark.slow
def test_it_reads_what_the_standard_library_reads(reader: str) -> None:
    """Verdict and values are those of Python's json, but that fractions and deep nesting are refused."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    texts = list(_texts(random.Random(seed)))
    encoded = [text.encode() for text in texts]
    question = b"".join(struct.pack("=I", len(each)) + each for each in encoded)
    done = subprocess.run([reader, "judge"], input=question, stdout=subprocess.PIPE, check=True)
    expected = [_expected(text) for text in texts]
    assert 100 < expected.count("no") < len(expected) - 100
    judged = done.stdout.decode().split("\0")[:-1]
    assert [row for row in zip(texts, judged, expected, strict=True) if row[1] != row[2]] == []


@pytest.mark.slow
def test_it_stays_within_the_text(reader: str) -> None:
    """Broken and cut answers are read or refused without a finding of the sanitizers."""
    done = subprocess.run([reader], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode == 0, done.stdout
