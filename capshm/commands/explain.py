"""capshm explain: what a rule says."""

from __future__ import annotations

import re
import textwrap

from capshm.commands.tables import Json, print_json, print_table
from capshm.errors import CapshmError
from capshm.model.rules import RULES, Rule

_WIDTH = 100


def explain(*rules: str, json_output: Json = False) -> None:
    """Explain rules by the names that refusals and audit records carry; without a name, list all of them.

    Examples: `capshm explain cheribsd:E2`, `capshm explain E2 F2`, `capshm explain F`. The numbers are capshm's own;
    what they stand for is CheriBSD's: its pull request #2225, manual pages and tests. A: mmap, B: mprotect, C:
    addresses and reservations, D: opening shared memory, E: mapping it, F: fork and exec, G: anonymous shared memory,
    H: System V, I: minherit, K: what CheriBSD leaves open, 1.D: the order of shm_open's checks.
    vmar:1.1 to vmar:1.9 are the checks of Zircon's calls, in their order: `capshm explain vmar:1.3/8e`.

    Parameters
    ----------
    rules
        Names: "cheribsd:E2", or "E2" for short; "E" is all that begin with it. "vmar:1.3/8e", or "1.3/8e".
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
    """The rule of that name, or those of a letter."""
    for full in (name, f"cheribsd:{name}", f"vmar:{name}"):
        if full in RULES:
            return [RULES[full]]
    letter = re.escape(name.removeprefix("cheribsd:"))
    if found := [rule for full, rule in RULES.items() if re.fullmatch(rf"cheribsd:{letter}(\d+|/\d+)", full)]:
        return found
    family = name.rpartition(":")[2][:1].upper()
    near = [full for full in RULES if full.startswith(f"cheribsd:{family}")]
    hint = f"those that begin alike: {', '.join(near)}" if family and near else "`capshm explain` lists them"
    raise CapshmError(f"there is no rule {name!r}; {hint}")


def _paragraph(rule: Rule) -> str:
    errno = "" if rule.errno is None else f"  (refuses with {rule.errno})"
    return f"{rule.name}  {rule.title}{errno}\n{textwrap.fill(rule.text, _WIDTH)}".rstrip()
