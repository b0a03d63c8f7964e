"""The tables printed after the tests, and one runtime for each test process."""

import json
import os
import shutil

import pytest

import kit


def pytest_collection_modifyitems(items):
    """Checks in known_failures.txt are expected to fail: open work, by name. What works again is reported as XPASS."""
    lines = (kit.HERE / "known_failures.txt").read_text().splitlines()
    known = {line.split(" ", 1)[0] for line in lines if line and not line.startswith("#")}
    for item in items:
        if item.nodeid.split("/")[-1] in known:
            item.add_marker(pytest.mark.xfail(reason="known_failures.txt"))


@pytest.fixture(scope="session")
def runtime():
    worker = kit.Runtime()
    yield worker
    worker.stop()


@pytest.fixture
def folder(tmp_path):
    """A folder of the test that is emptied afterwards: the files are large."""
    yield tmp_path
    shutil.rmtree(tmp_path, ignore_errors=True)


def pytest_sessionstart(session):
    if not hasattr(session.config, "workerinput"):
        shutil.rmtree(kit.CACHE / "results", ignore_errors=True)
    if not os.access(kit.LOWBIT, os.X_OK):
        pytest.exit(f"there is no lowbit binary at {kit.LOWBIT}: cargo build --release -p lowbit", 3)


def pytest_terminal_summary(terminalreporter):
    results = kit.CACHE / "results"
    for table in sorted(results.iterdir()) if results.exists() else []:
        rows = [json.loads(path.read_text()) for path in sorted(table.glob("*.json"))]
        columns = list(dict.fromkeys(key for row in rows for key in row))
        cells = [columns] + [[show(row.get(c)) for c in columns] for row in rows]
        widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
        terminalreporter.write_sep("-", table.name)
        for line in cells:
            terminalreporter.write_line("  ".join(cell.ljust(w) for cell, w in zip(line, widths)).rstrip())


def show(value):
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, list):
        return "/".join(map(show, value))
    return "-" if value is None else str(value)
