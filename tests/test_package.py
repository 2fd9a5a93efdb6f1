"""What the package is before anything is computed: names, imports, layers, docstrings."""

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import sigma_monitor

ROOT = Path(sigma_monitor.__file__).parent
FRAMEWORKS = {"transformers", "lightning", "pytorch_lightning", "trl", "wandb"}

# Whoever stands on a line may import from the lines below it, and from nothing else of ours.
HOUSE = [
    {"__main__"},
    {"cli"},
    {"lineage"},
    {"demo", "analysis", "replay", "report", "doctor", "live"},
    {"integrations"},
    {"monitor"},
    {"channels"},
    {"checking"},
    {"dashboard", "generation", "reference"},
    {"probing", "detection", "sinks"},
    {"snapshot", "spectrum"},
    {"alert", "ranks"},
    {"errors", "estimate"},
]
HEIGHT = {unit: len(HOUSE) - line for line, units in enumerate(HOUSE) for unit in units}


def modules():
    """Dotted name and syntax tree of every module of the package."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        found[name] = ast.parse(path.read_text(encoding="utf-8"))
    return found


MODULES = modules()
each_module = pytest.mark.parametrize("name", MODULES)


def imports(tree):
    """Dotted names a module imports anywhere, in functions and for the type checker too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports of the package are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit_of(dotted):
    """`sigma_monitor.probing.guard` -> `probing`; None for the package itself."""
    return [*dotted.split("."), None][1]


def resolved(dotted):
    """The module that an imported name really comes from: the package re-exports some."""
    name = unit_of(dotted)
    return sigma_monitor._HOMES.get(name, dotted)


def crossings(tree, unit):
    """Units other than its own that a module imports."""
    ours = [resolved(n) for n in imports(tree) if n.partition(".")[0] == "sigma_monitor"]
    return {unit_of(n) for n in ours} - {unit, "__version__"}


def test_the_plan_of_the_house_is_complete():
    assert {unit_of(name) for name in MODULES} - {None} == set(HEIGHT)


@each_module
def test_imports_go_downward_only(name):
    unit = unit_of(name)
    if unit is None:  # the package's own __init__ holds only the addresses of its names
        return
    upward = [u for u in crossings(MODULES[name], unit) if HEIGHT.get(u, 99) >= HEIGHT[unit]]
    assert upward == []


def test_an_import_that_goes_up_would_be_seen():
    tree = ast.parse("def f():\n    from sigma_monitor import SigmaMonitor, __version__\n")
    assert crossings(tree, "detection") == {"monitor"}


@each_module
def test_spectrum_and_detection_import_no_framework(name):
    forbidden = {
        "spectrum": FRAMEWORKS | {"accelerate"},
        "detection": FRAMEWORKS | {"accelerate", "torch", "numpy", "scipy"},
    }.get(unit_of(name), set())
    assert forbidden.isdisjoint(n.partition(".")[0] for n in imports(MODULES[name]))


def public(body):
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_")]


@each_module
def test_all_lists_what_a_module_defines_in_public(name):
    defined = {node.name for node in public(MODULES[name].body)}
    exported = getattr(importlib.import_module(name), "__all__", [])
    assert len(set(exported)) == len(exported)
    assert defined <= set(exported)


@each_module
def test_every_exported_name_resolves(name):
    module = importlib.import_module(name)
    for exported in getattr(module, "__all__", []):
        assert getattr(module, exported) is not None


@each_module
def test_everything_public_has_a_docstring(name):
    tree = MODULES[name]
    assert ast.get_docstring(tree)
    for node in public(tree.body):
        members = public(node.body) if isinstance(node, ast.ClassDef) else []
        assert [n.name for n in (node, *members) if not ast.get_docstring(n)] == []


def test_the_public_names_of_the_package_are_those_it_can_find():
    assert set(sigma_monitor.__all__) == set(sigma_monitor._HOMES)
    assert set(sigma_monitor.__all__) <= set(dir(sigma_monitor))
    for name, home in sigma_monitor._HOMES.items():
        assert getattr(sigma_monitor, name) is getattr(importlib.import_module(home), name)


def test_an_unknown_name_of_the_package_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'SigmaMonitors'"):
        _ = sigma_monitor.SigmaMonitors


IMPORTS = """
import json, logging, sys, time
import torch
before = set(sys.modules)
handlers = list(logging.getLogger().handlers)
started = time.process_time()
import sigma_monitor
imported = time.process_time()
package = sorted(set(sys.modules) - before)
sigma_monitor.spectral_summary, sigma_monitor.ProbeSet, sigma_monitor.SigmaMonitor
resolved = time.process_time()
loggers = [n for n in logging.root.manager.loggerDict if n.startswith("sigma_monitor")]
json.dump({
    "package": package,
    "frameworks": sorted({name.partition(".")[0] for name in sys.modules}),
    "handlers": len(logging.getLogger().handlers) - len(handlers)
    + sum(len(logging.getLogger(n).handlers) for n in loggers),
    "loggers": loggers,
    "levels": [logging.getLogger(n).level for n in loggers],
    "import_seconds": imported - started,
    "resolve_seconds": resolved - started,
}, open(sys.argv[1], "w"))
"""


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """What a new interpreter that imports the package loads, prints and takes."""
    path = tmp_path_factory.mktemp("import") / "report.json"
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, str(path)], capture_output=True, text=True, check=True
    )
    return {**json.loads(path.read_text()), "printed": done.stdout + done.stderr}


def test_importing_the_package_loads_itself_alone(fresh):
    assert fresh["package"] == ["sigma_monitor"]


def test_monitor_probe_set_and_spectrum_load_no_framework(fresh):
    assert FRAMEWORKS.isdisjoint(fresh["frameworks"])


def test_importing_prints_nothing_and_configures_no_logging(fresh):
    assert fresh["printed"] == ""
    assert fresh["handlers"] == 0
    assert fresh["loggers"] != []  # or there was nothing to look at
    assert set(fresh["levels"]) == {0}


def test_importing_costs_little_beyond_torch(fresh):
    """In seconds of the processor, which other processes take none of."""
    # Measured: 1 ms, and 0.7 s with scipy behind the three names.
    assert fresh["import_seconds"] < 0.5
    assert fresh["resolve_seconds"] < 5


def test_detection_needs_no_torch():
    code = "import sys, sigma_monitor.detection; print('torch' in sys.modules, *sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert loaded[0] == "False"
    assert "sigma_monitor.detection.detector" in loaded
