"""Floors import only downwards, and what users install holds what the product needs."""

import ast
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "monosem"
FLOORS = {
    "core": 0, "measures": 1, "data": 2, "encoders": 3, "sparse": 4, "robust": 5,
    "explain": 6, "llm": 6, "experiments": 7, "report": 8,
}  # fmt: skip


def _imported_floors(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file} line {node.lineno}: relative import"
            names.add(node.module or "")
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return {name.split(".")[1] for name in names if name.startswith("monosem.")}


def test_every_folder_is_a_floor_of_the_house():
    folders = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()}
    assert folders <= FLOORS.keys()
    assert len(folders) >= 8


@pytest.mark.parametrize("floor", [floor for floor in FLOORS if (PACKAGE / floor).exists()])
def test_imports_go_down_only(floor):
    for file in (PACKAGE / floor).rglob("*.py"):
        for other in _imported_floors(file):
            assert other == floor or FLOORS[other] < FLOORS[floor], f"{file} imports {other}"


def test_the_check_above_sees_an_upward_import(tmp_path):
    file = tmp_path / "bad.py"
    file.write_text("def f():\n    from monosem.report.tables import summary\n")
    assert _imported_floors(file) == {"report"}


def test_the_wheel_holds_recipes_class_lists_numbers_templates_and_type_marker(tmp_path):
    pytest.importorskip("hatchling")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=PACKAGE.parent, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    shipped = set(zipfile.ZipFile(wheel).namelist())
    needed = {"monosem/py.typed", "monosem/recipes/digits.yaml", "monosem/recipes/cifar100-small.yaml"}
    needed |= {f"monosem/report/templates/{path.name}" for path in (PACKAGE / "report/templates").iterdir()}
    needed |= {f"monosem/recipes/table1-{data}.yaml" for data in ("cifar100", "imagenet100")}
    needed |= {"monosem/data/imagenet100.txt", "monosem/report/paper_numbers.json"}
    needed |= {"monosem/sparse/templates/model_card.md.j2"}
    assert needed <= shipped
    assert not [name for name in shipped if name.startswith(("tests/", "docs/", "runs/"))]


def test_importing_monosem_does_not_import_torch():
    code = "import sys, monosem, monosem.cli; sys.exit('torch' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
