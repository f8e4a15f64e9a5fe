"""The queue is standard library and PyMongo; more would slow the start of every worker."""

import ast
import sys
from pathlib import Path

import trials

OURS = {"trials", "pymongo", "bson", "gridfs"}


def imported(source: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(source)))
    whole = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    of = {n.module or "" for n in nodes if isinstance(n, ast.ImportFrom) and not n.level}
    return {name.partition(".")[0] for name in whole | of}


def test_it_imports_nothing_else() -> None:
    files = sorted(Path(trials.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    found = {file.name: imported(file.read_text()) for file in files}
    allowed = OURS | sys.stdlib_module_names
    assert {name: rest for name, all_ in found.items() if (rest := all_ - allowed)} == {}
    assert imported("if x:\n    from yaml.x import y\n    import json as j") == {"yaml", "json"}
