"""capshm explain: what a rule says."""

from __future__ import annotations

import re
import textwrap

from capshm.commands.tables import Json, print_json, print_table
from capshm.errors import CapshmError
from capshm.model.rules import RULES, Rule

_WIDTH = 100
_HINTS = 24  # names that a wrong one is told


def explain(*rules: str, json_output: Json = False) -> None:
    """Explain rules by the names that refusals and audit records carry; without a name, list all of them.

    Examples: `capshm explain cheribsd:E2`, `capshm explain E2 F2`, `capshm explain F`. The numbers are capshm's own;
    what they stand for is CheriBSD's: its pull request #2225, manual pages and tests. A: mmap, B: mprotect, C:
    addresses and reservations, D: opening shared memory, E: mapping it, F: fork and exec, G: anonymous shared memory,
    H: System V, I: minherit, J: where revocation looks, K: what CheriBSD leaves open, 1.D: the order of shm_open's
    checks, 2: revocation. vmar:1.1 to vmar:1.9 are the checks of Zircon's calls, in their order; vmar:VMO, vmar:CAP and
    vmar:REMOTE those of VMOs, of capability permission, and of calls on other processes' VMARs.

    Parameters
    ----------
    rules
        Names: "cheribsd:E2", or "E2" for short; "E" is all that begin with it. "vmar:1.3/8e", or "1.3/8e"; "vmar:1.3"
        is all of that call, "vmar" all of Zircon's.
    json_output
        Print one JSON document.
    """
    chosen = [rule for name in rules for rule in _find(name)] if rules else list(RULES.values())
    if json_output:
        print_json({"rules": [rule._asdict() for rule in chosen]})
    elif rules:
        print("\n\n".join(_paragraph(rule) for rule in chosen))
    else:
        print_table(["RULE", "ERRNO", "WHAT IT SAYS"], [(rule.name, rule.errno, rule.title) for rule in chosen])


def _find(name: str) -> list[Rule]:
    """The rule of that name, or the family: those that have a number or a letter more."""
    for full in (name, f"cheribsd:{name}", f"vmar:{name}"):
        if full in RULES:
            return [RULES[full]]
    prefix, colon, short = name.rpartition(":")
    faces = f"{prefix}:" if colon else r"\w+:"
    if found := _alike(rf"{faces}{re.escape(short)}(\d+|/\d+[a-z]?|\.\d+|[a-z])"):
        return found
    if not colon and (found := _alike(rf"{re.escape(name)}:.+")):
        return found
    family = re.match(r"\d\.\w|[A-Z]+", short.upper())
    stems = ([family[0]] if family else []) + [short[:1].upper()]
    near = next((found for stem in stems if stem and (found := _alike(rf"{faces}{re.escape(stem)}.+"))), [])
    names = ", ".join(rule.name for rule in near[:_HINTS]) + (" ..." if len(near) > _HINTS else "")
    hint = f"those that begin alike: {names}" if near else "`capshm explain` lists them"
    raise CapshmError(f"there is no rule {name!r}; {hint}")


def _alike(pattern: str) -> list[Rule]:
    return [rule for full, rule in RULES.items() if re.fullmatch(pattern, full)]


def _paragraph(rule: Rule) -> str:
    errno = "" if rule.errno is None else f"  (refuses with {rule.errno})"
    return f"{rule.name}  {rule.title}{errno}\n{textwrap.fill(rule.text, _WIDTH)}".rstrip()
