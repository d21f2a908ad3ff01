"""capshm explain: what a rule says."""

from __future__ import annotations

import textwrap

from capshm.commands.tables import Json, print_json, print_table
from capshm.errors import CapshmError
from capshm.model.rules import RULES, Rule

_WIDTH = 100


def explain(*rules: str, json_output: Json = False) -> None:
    """Explain rules by the names that refusals and audit records carry; without a name, list all of them.

    Examples: `capshm explain cheribsd:E2`, `capshm explain E2 F2`.

    Parameters
    ----------
    rules
        Names: "cheribsd:E2", or "E2" for short.
    json_output
        Print one JSON document.
    """
    chosen = [_find(name) for name in rules] if rules else list(RULES.values())
    if json_output:
        print_json({"rules": [rule._asdict() for rule in chosen]})
    elif rules:
        print("\n\n".join(_paragraph(rule) for rule in chosen))
    else:
        print_table(["RULE", "ERRNO", "WHAT IT SAYS"], [(rule.name, rule.errno, rule.title) for rule in chosen])


def _find(name: str) -> Rule:
    for full in (name, f"cheribsd:{name}"):
        if full in RULES:
            return RULES[full]
    family = name.rpartition(":")[2][:1].upper()
    near = [full for full in RULES if full.startswith(f"cheribsd:{family}")]
    hint = f"those that begin alike: {', '.join(near)}" if family and near else "`capshm explain` lists them"
    raise CapshmError(f"there is no rule {name!r}; {hint}")


def _paragraph(rule: Rule) -> str:
    errno = "" if rule.errno is None else f"  (refuses with {rule.errno})"
    return f"{rule.name}  {rule.title}{errno}\n{textwrap.fill(rule.text, _WIDTH)}".rstrip()
