"""Policies: who may share capabilities through memory, one file each.

A policy is any object that answers the questions of `Policy`, found by its name in the entry point group
"capshm.policies"; those that come with capshm are registered in the same way.
"""

from __future__ import annotations

from importlib.metadata import entry_points

from capshm.model.policy import Policy

__all__ = ["GROUP", "Policy", "load", "names"]

GROUP = "capshm.policies"


def names() -> list[str]:
    """Of all policies that are installed."""
    return sorted(entry_points(group=GROUP).names)


def load(name: str) -> Policy:
    """The policy of a name. ValueError, naming those that there are, if there is none; TypeError if it is no policy."""
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise ValueError(f"there is no policy {name!r}; there are {', '.join(names())}")
    policy: Policy = found[0].load()()
    missing = [question for question in dir(Policy) if question[0] != "_" and not hasattr(policy, question)]
    if missing:
        raise TypeError(f"{found[0].value} is no policy: it does not answer {', '.join(missing)}")
    return policy
