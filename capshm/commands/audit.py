"""capshm audit: what happened in a machine, who asked for it, and which rule decided."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from time import localtime, strftime
from typing import Annotated

import cyclopts

from capshm.commands import names
from capshm.commands.options import Flag
from capshm.commands.tables import Json, print_json, print_table
from capshm.model.rules import RULES
from capshm.observer import Observer, choose
from capshm.records import Audit

app = cyclopts.App(name="audit", help="Show or check what happened in a machine: who asked, and which rule decided.")

FileArgument = Annotated[Path | None, cyclopts.Parameter(validator=cyclopts.validators.Path(exists=True))]


@cyclopts.Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Filters:
    """Which records are meant: those that match all of these.

    Parameters
    ----------
    pid
        Records of this process.
    event
        Records of this kind: map, fork, shm_open ...
    rule
        Records that this rule decided: "cheribsd:E2", or "E2" for short.
    refused
        What was refused.
    """

    pid: int | None = None
    event: str | None = None
    rule: str | None = None
    refused: Flag = False

    def check(self, records: list[Audit]) -> None:
        """CycloptsError: there is no such event or rule. What the records have is known, too: a plug-in's rules."""
        from capshm.broker.messages import EVENTS  # only here: it needs the broker's libraries

        if self.event is not None:
            events = EVENTS | {each.event for each in records}
            names.check("event", self.event, events, f"there are {', '.join(sorted(events))}")
        if self.rule is not None:
            rules = RULES.keys() | {each.rule for each in records if each.rule}
            short = {rule.removeprefix("cheribsd:") for rule in rules}
            names.check("rule", self.rule, rules | short, "`capshm explain` lists them")

    def matches(self, record: Audit) -> bool:
        """Whether the record is meant."""
        return (
            (self.pid is None or record.pid == self.pid)
            and (self.event is None or record.event == self.event)
            and (self.rule is None or record.rule in (self.rule, f"cheribsd:{self.rule}"))
            and not (self.refused and record.allowed)
        )


_NO_FILTERS = Filters()


@app.default
def show(
    file: FileArgument = None,
    *,
    machine: str | None = None,
    filters: Filters = _NO_FILTERS,
    json_output: Json = False,
) -> None:
    """Show the records of a running machine, or of a file that `Machine(audit=...)` wrote; filters narrow them down.

    Parameters
    ----------
    file
        An audit file; without it, a running machine is asked.
    machine
        Its name; needed where several are running.
    json_output
        Print one JSON document.
    """
    records, findings = read(file, machine)
    filters.check(records)
    chosen = [each for each in records if filters.matches(each)]
    if json_output:
        print_json({"records": [each._asdict() for each in chosen], "findings": findings})
    else:
        _print(chosen)
        for finding in findings:
            print(f"capshm: {finding}", file=sys.stderr)
    if findings:
        sys.exit(1)


@app.command
def check(
    file: FileArgument = None,
    *,
    machine: str | None = None,
    filters: Filters = _NO_FILTERS,
    json_output: Json = False,
) -> None:
    """Answer by the exit status whether something has happened: 0 no, 1 yes, 3 the audit itself is damaged.

    With filters: whether any record matches all of them, `capshm audit check --rule E9` for example: has anybody mapped
    a share-cap object with capability permission? (Under policy "open" every object is share-cap.) Without any: whether
    the audit is whole, without gaps or a half-written tail. An event or a rule that there is not is a wrong command
    line, 2.

    Parameters
    ----------
    file
        An audit file; without it, a running machine is asked.
    machine
        Its name; needed where several are running.
    json_output
        Print one JSON document.
    """
    records, findings = read(file, machine)
    filters.check(records)
    found = [each for each in records if filters.matches(each)] if filters != _NO_FILTERS else []
    if json_output:
        document = {"records": len(records), "found": [each._asdict() for each in found], "findings": findings}
        print_json(document)
    else:
        for finding in findings:
            print(finding)
        if found:
            _print(found)
        print(f"{len(records)} records, {len(found)} found, {len(findings)} damages")
    if findings or found:
        sys.exit(3 if findings else 1)


def read(file: Path | None, machine: str | None) -> tuple[list[Audit], list[str]]:
    """All records, and what is wrong with the file."""
    if file is None:
        with Observer(choose(machine)) as observer:
            return observer.audit(), []
    from capshm.broker import audit  # only here: it needs the broker's libraries

    _, findings = audit.check(str(file))
    records = [Audit(*record) for record in audit.read(str(file))]
    return records, [f"{file}, byte {finding.offset}: {finding.what}" for finding in findings]


def _print(records: list[Audit]) -> None:
    print_table(
        ["NUMBER", "TIME", "PID", "VMSPACE", "EVENT", "ALLOWED", "RULE", "OBJECT", "WHERE", "WHAT"],
        [
            (
                each.number,
                strftime("%H:%M:%S", localtime(each.time)),
                each.pid,
                each.vmspace,
                each.event,
                each.allowed,
                each.rule,
                each.object or None,
                f"{Path(each.file).name}:{each.line}" if each.file else "",
                each.message,
            )
            for each in records
        ],
    )
