"""Results folders: what is written is found again, damage is found, and SQL has the same."""

import resource
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from capshm.lab.comparison import Case, Comparison, Configuration
from capshm.lab.plan import Cell, Plan
from capshm.lab.results import database, facts, results
from capshm.lab.results.facts import Facts
from capshm.lab.results.filling import Results
from capshm.lab.results.results import Another, Canary, Failed, Manifest, Measured, Record, Result, ResultsError

CASE = Case("prefork", 1 << 20, processes=4, density=12.5)
TRACED = Case("trace", 4096, "/somewhere/build.trace")
PLAIN, OPEN = Configuration("plain"), Configuration("open", "stop-the-world", "gate", "vmspace")
PLAN = Plan(comparisons=(Comparison((CASE, TRACED), (PLAIN, OPEN), "plain"),), repeats=2, seed=5, timeout=60)
ANOTHER = Facts("0.9", "release", "3.11.7", "A Processor", "6.1", 2, "2026-01-02T03:04:05Z", "another")
RECORDS: list[Record] = [
    Canary(1, 0.15),
    Another(1, ANOTHER),
    Measured(1, Cell(CASE, PLAIN, 5), Result(100, 90, 20, {"operations": 7, "crossed": 0}, 11)),
    Measured(
        1, Cell(TRACED, OPEN, 5), Result(200, 190, 30, {"operations": 9, "crossed": 4}, (1 << 64) - 1, [50, 40]), 1
    ),
    Failed(1, Cell(CASE, OPEN, 5), "CellFailed: a worker\nwas killed: “±”"),
    Canary(2, None),
]


def a_folder(path: Path, records: list[Record] = RECORDS) -> Path:
    """One with these records."""
    with Results(path, Manifest(PLAN, facts.gather())) as filling:
        for record in records:
            filling.append(record)
    return path


def test_what_is_written_is_found_again(tmp_path: Path) -> None:
    """Manifest and records, in their order; folders above are made."""
    folder = a_folder(tmp_path / "deep" / "down")
    found = results.read(folder)
    assert found.manifest.plan == PLAN
    assert found.manifest.schema == results.SCHEMA
    assert found.records == RECORDS
    assert (found.tail, found.damages) == (0, [])


def test_each_record_is_there_when_append_returns(tmp_path: Path) -> None:
    """Another reader sees it, while the folder is still open."""
    with Results(tmp_path / "run", Manifest(PLAN, facts.gather())) as filling:
        for count, record in enumerate(RECORDS, 1):
            filling.append(record)
            assert results.read(tmp_path / "run").records == RECORDS[:count]


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    """Not even what is no result; with force, an older run goes and other files stay."""
    folder = a_folder(tmp_path / "run")
    (folder / results.TABLE).write_text("old", encoding="utf-8")
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    before = (folder / results.RESULTS).read_bytes()
    with pytest.raises(ResultsError, match="--force"):
        Results(folder, Manifest(PLAN, facts.gather()))
    assert (folder / results.RESULTS).read_bytes() == before
    with Results(folder, Manifest(PLAN, facts.gather()), is_forced=True):
        pass
    assert results.read(folder).records == []
    assert not (folder / results.TABLE).exists()
    assert (folder / "notes.txt").read_text(encoding="utf-8") == "mine"


def test_times_are_times(tmp_path: Path) -> None:
    """A time of 0, or of more than the clock can tell, is damage: nothing could be compared with it."""
    folder = a_folder(tmp_path / "run")
    whole = (folder / results.RESULTS).read_bytes()
    for time in (0, -1, 1 << 63, 10**400):
        (folder / results.RESULTS).write_bytes(whole.replace(b'"wall_ns":100', b'"wall_ns":%d' % time))
        found = results.read(folder)
        assert len(found.records) == len(RECORDS) - 1
        assert len(found.damages) == 1


@pytest.mark.parametrize(
    ("good", "wrong"),
    [
        (b'"crossed":4', b'"crossed":9223372036854775808'),
        (b'"crossed":4', b'"crossed":-1'),
        (b"[50,40]", b"[50,18446744073709551616]"),
        (b'"setup_ns":30', b'"setup_ns":9223372036854775808'),
    ],
)
def test_numbers_that_sql_has_not_are_damage(tmp_path: Path, good: bytes, wrong: bytes) -> None:
    """And no database fails by them."""
    folder = a_folder(tmp_path / "run")
    whole = (folder / results.RESULTS).read_bytes()
    assert good in whole
    (folder / results.RESULTS).write_bytes(whole.replace(good, wrong))
    found = results.read(folder)
    assert (len(found.records), len(found.damages)) == (len(RECORDS) - 1, 1)
    database.build(folder, found.manifest, found.records)


def test_a_baseline_that_there_is_not_is_damage(tmp_path: Path) -> None:
    """Nothing could be compared with it."""
    folder = a_folder(tmp_path / "run")
    text = (folder / results.MANIFEST).read_bytes()
    (folder / results.MANIFEST).write_bytes(text.replace(b'"baseline": "plain"', b'"baseline": "nobody"'))
    with pytest.raises(ResultsError, match="damaged: nothing in it is 'nobody'"):
        results.read(folder)


def test_a_folder_is_filled_by_one_at_a_time(tmp_path: Path) -> None:
    """Whoever comes meanwhile is refused, with force too, and takes nothing away; afterwards the folder is free."""
    manifest = Manifest(PLAN, facts.gather())
    with Results(tmp_path / "run", manifest) as first:
        first.append(RECORDS[0])
        with pytest.raises(ResultsError, match="another comparison"):
            Results(tmp_path / "run", manifest, is_forced=True)
        first.append(RECORDS[1])
    assert results.read(tmp_path / "run").records == RECORDS[:2]
    Results(tmp_path / "run", manifest, is_forced=True).close()


def test_with_force_an_older_run_stays_until_there_is_room(tmp_path: Path) -> None:
    """Where files may not be as long as a manifest, as on a full disk, all of it is still there."""
    folder = a_folder(tmp_path / "run")
    (folder / results.TABLE).write_text("old", encoding="utf-8")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    manifest = Manifest(PLAN, facts.gather())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limits[1]))  # Python has SIGXFSZ ignored
    try:
        with pytest.raises(ResultsError, match="File too large"):
            Results(folder, manifest, is_forced=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_in_the_way_is_refused(tmp_path: Path) -> None:
    """Where a folder should be; it stays."""
    (tmp_path / "run").write_text("mine", encoding="utf-8")
    with pytest.raises(ResultsError, match="cannot make the results folder"):
        Results(tmp_path / "run", Manifest(PLAN, facts.gather()))
    assert (tmp_path / "run").read_text(encoding="utf-8") == "mine"


def test_a_half_written_tail_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    """Cut at every byte of the last line: all before it are found, and the tail's length is told."""
    folder = a_folder(tmp_path / "run")
    whole = (folder / results.RESULTS).read_bytes()
    begin = whole.rindex(b"\n", 0, -1) + 1
    for end in range(begin, len(whole)):
        (folder / results.RESULTS).write_bytes(whole[:end])
        found = results.read(folder)
        assert found.records == RECORDS[:-1]
        assert found.tail == end - begin
        assert found.damages == []


@pytest.mark.parametrize("line", [b"\xff\xff", b"{}", b'{"type": "measured", "round": "1"}', b"", b"[1, 2]", b"null"])
def test_damaged_lines_are_named_and_the_others_kept(tmp_path: Path, line: bytes) -> None:
    """With file and line number."""
    folder = a_folder(tmp_path / "run")
    lines = (folder / results.RESULTS).read_bytes().splitlines()
    lines[1] = line
    (folder / results.RESULTS).write_bytes(b"\n".join(lines) + b"\n")
    found = results.read(folder)
    assert found.records == [RECORDS[0], *RECORDS[2:]]
    assert len(found.damages) == 1
    assert "results.jsonl, line 2: no record" in found.damages[0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"{", "damaged"),
        (b'{"schema": 2}', "damaged"),
        (b'{"schema": 3}', "damaged"),
        (b'{"schema": 4}', "schema 4; this version of capshm reads 2 and 3"),
        (b"\xff", "damaged"),
    ],
)
def test_a_folder_without_a_good_manifest_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """Damaged, or of another version."""
    folder = a_folder(tmp_path / "run")
    (folder / results.MANIFEST).write_bytes(content)
    with pytest.raises(ResultsError, match=message):
        results.read(folder)


@pytest.mark.parametrize("name", [results.MANIFEST, results.RESULTS])
def test_a_folder_without_a_file_is_refused(tmp_path: Path, name: str) -> None:
    """Both are needed."""
    folder = a_folder(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(ResultsError, match="holds no results"):
        results.read(folder)


def test_a_folder_of_the_schema_before_is_read(tmp_path: Path) -> None:
    """Its cases had the workload's own processes and density; the text is one that capshm 0.3 has written."""
    case, configuration = b'{"workload":"prefork","size":65536,"trace":null}', b'{"policy":"plain"}'
    facts = b'{"capshm":"0.3","core":"release","python":"3.11","machine":"A","kernel":"6","processors":2,"time":"now"}'
    (tmp_path / results.MANIFEST).write_bytes(
        b'{"plan":{"comparisons":[{"cases":[%s],"configurations":[%s],"baseline":"plain"}],'
        b'"repeats":1,"seed":1,"timeout":60},"facts":%s,"schema":2}' % (case, configuration, facts)
    )
    (tmp_path / results.RESULTS).write_bytes(
        b'{"type":"measured","round":1,"cell":{"case":%s,"configuration":%s,"seed":1},"result":'
        b'{"wall_ns":1,"cpu_ns":1,"setup_ns":1,"counts":{},"checksum":2}}\n' % (case, configuration)
    )
    found = results.read(tmp_path)
    (record,) = found.records
    assert isinstance(record, Measured)
    assert found.manifest.plan.cells == [record.cell]
    assert record.cell.case == Case("prefork", 65_536)


def test_sql_has_the_same(tmp_path: Path) -> None:
    """Every record in its table; building it again replaces it."""
    folder = a_folder(tmp_path / "run")
    for _ in range(2):
        database.build(folder, results.read(folder).manifest, RECORDS)
    with closing(sqlite3.connect(folder / results.DATABASE)) as connection:
        ask = connection.execute
        assert ask("SELECT * FROM cells").fetchall() == [
            (1, 1, "prefork", 1 << 20, None, None, 4, 12.5, "plain", None, None, None, 5, 0, 100, 90, 20, f"{11:016x}"),
            (
                2,
                1,
                "trace",
                4096,
                "/somewhere/build.trace",
                None,
                None,
                None,
                "open",
                "stop-the-world",
                "gate",
                "vmspace",
                5,
                1,
                200,
                190,
                30,
                "f" * 16,
            ),
        ]
        assert ask("SELECT cell, value FROM counts WHERE name = 'crossed' ORDER BY cell").fetchall() == [(1, 0), (2, 4)]
        assert ask("SELECT * FROM pauses").fetchall() == [(2, 1, 50), (2, 2, 40)]
        assert ask("SELECT policy, revoker, stopper, scope, message FROM failures").fetchall() == [
            ("open", "stop-the-world", "gate", "vmspace", "CellFailed: a worker\nwas killed: “±”")
        ]
        assert ask("SELECT * FROM canary").fetchall() == [(1, 0, 0.15), (2, 0, None)]
        assert ask("SELECT value FROM machines WHERE number = 1 AND key = 'node'").fetchall() == [("another",)]
        assert ask("SELECT count(DISTINCT number) FROM machines").fetchall() == [(2,)]
        assert ask("SELECT value FROM run WHERE key = 'schema'").fetchall() == [("3",)]
        assert ask("SELECT value FROM run WHERE key = 'machine'").fetchone()[0]
