"""Limits of functions and modules."""

from __future__ import annotations

from pathlib import Path

from scripts.size_check import FUNCTION_LINES, MODULE_LINES, problems


def function(name: str, lines: int, indent: str = "") -> str:
    """One of that many lines."""
    return f"{indent}def {name}() -> None:\n" + f"{indent}    print()\n" * (lines - 1)


def found(tmp_path: Path, text: str) -> list[str]:
    module = tmp_path / "module.py"
    module.write_text(text)
    return [problem.removeprefix(f"{module}:") for problem in problems(module)]


def test_a_function_of_the_limit_may_be_and_a_longer_one_is_named(tmp_path: Path) -> None:
    assert found(tmp_path, function("fits", FUNCTION_LINES)) == []
    (problem,) = found(tmp_path, "\n" + function("long", FUNCTION_LINES + 1))
    assert problem == "2: long: 41 lines; a function has at most 40"


def test_what_is_nested_counts_for_itself(tmp_path: Path) -> None:
    inner = function("inner", FUNCTION_LINES, indent="    ")
    assert found(tmp_path, function("outer", 3) + inner) == []
    inner = function("inner", FUNCTION_LINES + 1, indent="    ")
    (problem,) = found(tmp_path, function("outer", 3) + inner)
    assert "inner: 41 lines" in problem


def test_a_module_has_a_limit_too(tmp_path: Path) -> None:
    assert found(tmp_path, "x = 1\n" * MODULE_LINES) == []
    assert found(tmp_path, "x = 1\n" * (MODULE_LINES + 1)) == [
        " 401 lines; a module has at most 400"
    ]
