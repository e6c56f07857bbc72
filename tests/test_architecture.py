"""The shape of the code: layers, one function an equation, sizes, docstrings, names."""

import ast
import collections
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "reasonjax"
LAYERS = (
  ("core", "metrics"),
  ("sharding", "kernels", "rewards"),
  ("models", "losses", "optim", "data"),
  ("tasks", "inference", "checkpoint"),
  ("search",),
  ("eval",),
  ("train",),
  ("pipelines", "planning"),
)
LAYER = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
FILES = sorted(PACKAGE.rglob("*.py"))
ENTRY_POINTS = sorted(set((ROOT / "experiments").glob("*.py")) - {ROOT / "experiments/launch.py"})
CONFIGS = sorted((ROOT / "configs").rglob("*.py"))


def tree(path: Path) -> ast.Module:
  return ast.parse(path.read_text(), filename=str(path))


def name_of(path: Path) -> str:
  return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
  """Dotted names of everything that a file imports, inside functions too."""
  found = set()
  for node in ast.walk(tree(path)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f"{path}: write imports out in full"
      found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
  return found


def functions(path: Path):
  """Every function and class of a file with its dotted name."""

  def walk(node, prefix, inside_function):
    for child in ast.iter_child_nodes(node):
      if isinstance(child, ast.FunctionDef | ast.ClassDef):
        yield prefix + child.name, child, inside_function
        nested = inside_function or isinstance(child, ast.FunctionDef)
        yield from walk(child, f"{prefix}{child.name}.", nested)
      else:
        yield from walk(child, prefix, inside_function)

  yield from walk(tree(path), "", False)


# Methods that a Protocol describes; what implements it need not say it again.
PROTOCOL_METHODS = {
  method.name
  for path in FILES
  for _, node, _ in functions(path)
  if isinstance(node, ast.ClassDef) and any(ast.unparse(b) == "Protocol" for b in node.bases)
  for method in node.body
  if isinstance(method, ast.FunctionDef) and ast.get_docstring(method)
}


def test_every_package_has_a_layer():
  packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
  assert packages <= set(LAYER)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_imports_only_from_lower_layers_or_its_own_package(path):
  own = path.relative_to(PACKAGE).parts[0]
  for name in imports(path):
    assert name.split(".")[0] not in ("experiments", "configs", "tests"), name
    parts = name.split(".")
    if parts[0] == "reasonjax" and len(parts) > 1 and parts[1] != own:
      assert LAYER[parts[1]] < LAYER[own], f"{path.name} of {own} imports {name}"


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_configs_import_nothing_of_the_library(path):
  for name in imports(path):
    root = name.split(".")[0]
    assert root != "reasonjax"
    assert root != "experiments"
    assert root != "configs" or name in ("configs", "configs.common"), name


def test_no_package_is_empty():
  for folder in PACKAGE.iterdir():
    if folder.is_dir() and folder.name != "__pycache__":
      assert len(list(folder.glob("*.py"))) > 1, folder


def tagged(tag: str) -> dict[str, list[str]]:
  """Names after "Implements:" or "Twin of:" -> functions that carry them."""
  found = collections.defaultdict(list)
  for path in FILES:
    for name, node, _ in functions(path):
      for line in (ast.get_docstring(node) or "").splitlines():
        if line.strip().startswith(f"{tag}:"):
          for item in line.split(":", 1)[1].split(";"):
            found[item.strip().rstrip(".")].append(f"{path.stem}.{name}")
  return found


def test_each_equation_has_one_function():
  equations = tagged("Implements")
  assert len(equations) >= 20
  for equation, owners in equations.items():
    assert re.fullmatch(r".+ Eq\. \d+", equation), equation
    assert len(owners) == 1, f"{equation} is implemented by {owners}"


def test_the_readme_names_the_function_of_each_equation():
  table = {}
  for line in (ROOT / "README.md").read_text().splitlines():
    cells = line.split("|")
    if len(cells) == 4 and "Eq." in cells[1]:
      function = re.search(r"`[a-z_]+\.([a-z_]+\.\w+)`", cells[2]).group(1)
      table |= dict.fromkeys(re.findall(r"[\w-]+ Eq\. \d+", cells[1]), function)
  assert table == {equation: owners[0] for equation, owners in tagged("Implements").items()}


def test_every_twin_names_a_function_that_exists():
  defined = {node.name for path in FILES for _, node, _ in functions(path)}
  twins = tagged("Twin of")
  assert {"expanded_attention", "looped_experts", "reference_attention"} <= set(twins)
  assert set(twins) <= defined


@pytest.mark.parametrize("path", FILES + ENTRY_POINTS, ids=name_of)
def test_sizes(path):
  limit = 80 if path in ENTRY_POINTS else 400
  assert len(path.read_text().splitlines()) <= limit
  for name, node, _ in functions(path):
    if isinstance(node, ast.FunctionDef):
      docstring = node.body[0] if ast.get_docstring(node) else None
      prose = docstring.end_lineno - docstring.lineno + 1 if docstring else 0
      assert node.end_lineno - node.lineno + 1 - prose <= 60, name


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_public_functions_and_classes_say_what_they_do(path):
  assert ast.get_docstring(tree(path)) or path == PACKAGE / "__init__.py"
  for name, node, inside_function in functions(path):
    private = any(part.startswith("_") for part in name.split("."))
    trivial = isinstance(node, ast.FunctionDef) and len(node.body) == 1
    exempt = name.split(".")[-1] in {"setup", *PROTOCOL_METHODS}
    if not private and not inside_function and not trivial and not exempt:
      assert ast.get_docstring(node), f"{path.name}: {name} has no docstring"


def test_nothing_is_called_utils():
  for path in ROOT.rglob("*.py"):
    assert "util" not in path.stem, path
    assert "helper" not in path.stem, path


def test_no_asserts_and_no_todo_in_the_library():
  for path in FILES:
    assert not [node for node in ast.walk(tree(path)) if isinstance(node, ast.Assert)], path
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", path.read_text()), path
