"""The house rules that a machine can hold: imports run one way, the README's tree is true, `--help` is light."""

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "bnsweep"

# What each part may import of bnsweep, besides errors, paths and _version; "lazy" imports inside functions count too.
MAY_IMPORT = {
    "errors": set(),
    "_version": set(),
    "paths": set(),
    "experiment": {"experiment"},
    "training": {"training", "experiment"},
    "noise": {"noise", "training", "experiment"},
    "store": {"store"},
    "placements": {"placements"},
    "sweep": {"sweep", "experiment", "training", "noise", "store", "placements"},
    "analysis": {"analysis", "store", "experiment", "queries", "placements"},
    "launch": {"experiment"},
    "service": {"service", "analysis", "store", "experiment"},
    "__init__": {"noise"},
    "cli": {"cli", "launch", "experiment", "training", "noise", "store", "sweep", "analysis", "service"},
    "__main__": {"cli"},
}
FOREIGN = {
    "ray": {
        "sweep/ray_cluster.py",
        "sweep/ray_connection.py",
        "sweep/ray_data.py",
        "sweep/ray_engine.py",
        "sweep/ray_nodes.py",
        "sweep/ray_outage.py",
        "sweep/ray_trainings.py",
        "sweep/ray_tune.py",
        "sweep/ray_work.py",
        "sweep/search/tuning.py",
    },
    "optuna": {"sweep/search/samplers.py", "sweep/search/study.py"},
    "duckdb": {"analysis"},
    "torch": {"training", "noise", "sweep"},
    "pydantic": {"experiment", "service"},
    "fastapi": {"service"},
}


def imports(path):
    """Names of imported modules, except those for type checkers only."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def part_of(path):
    inner = path.relative_to(PACKAGE)
    return inner.parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    allowed = MAY_IMPORT[part_of(path)] | {"errors", "_version", "paths"}
    for name in imports(path):
        words = name.split(".")
        if words[0] == "bnsweep" and len(words) > 1:
            assert words[1] in allowed, f"{path.relative_to(ROOT)} imports {name}"
        if words[0] in FOREIGN:
            where = str(path.relative_to(PACKAGE))
            assert any(where.startswith(place) for place in FOREIGN[words[0]]), f"{where} imports {name}"


def test_the_modules_of_the_store_import_each_other_one_way():
    """Imports inside functions and for type checkers count as well."""
    left = {path.stem: set() for path in (PACKAGE / "store").glob("*.py")}
    for name, needs in left.items():
        for node in ast.walk(ast.parse((PACKAGE / "store" / f"{name}.py").read_text())):
            if isinstance(node, ast.ImportFrom) and node.module == "bnsweep.store":
                needs |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bnsweep.store."):
                needs.add(node.module.removeprefix("bnsweep.store."))
    while first := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in first:
            del left[name]
    assert not left, f"a circle: {left}"


def names_in_all(tree):
    """What a module says that others may use; None if it says nothing."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and [getattr(target, "id", "") for target in node.targets] == ["__all__"]:
            return set(ast.literal_eval(node.value))
    return None


def test_what_modules_use_of_each_other_is_in_their_all():
    """Imports inside functions and for type checkers count as well."""
    trees = {".".join(path.relative_to(ROOT).with_suffix("").parts): ast.parse(path.read_text()) for path in SOURCES}
    offered = {name: names_in_all(tree) for name, tree in trees.items()}
    used = [
        (name, node.module, alias.name)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and offered.get(node.module) is not None
        for alias in node.names
    ]
    assert len(used) > 1000
    assert not [f"{user} uses {module}.{name}" for user, module, name in used if name not in offered[module]]


def loaded_after(code):
    script = f"import sys; {code}; print(*sorted(set(m.split('.')[0] for m in sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_a_wheel_has_every_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    named = {".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py")}
    assert sorted(packages) == sorted(named | {"bnsweep.cluster", "bnsweep.queries"})


def test_help_loads_nothing_heavy():
    code = "sys.argv = ['bnsweep', '--help']; from bnsweep import cli; cli.cli(standalone_mode=False)"
    assert not loaded_after(code) & {"torch", "ray", "duckdb", "pyarrow", "pydantic", "numpy", "rich", "yaml"}


@pytest.mark.parametrize("words", [[], ["quickstart"], ["--keys"]])
def test_sweep_files_are_shown_without_anything_heavy(words):
    code = f"sys.argv = ['bnsweep', 'spec', *{words}]; from bnsweep import cli; cli.cli(standalone_mode=False)"
    assert not loaded_after(code) & {"torch", "ray", "duckdb", "pyarrow", "numpy"}


def test_a_plan_of_built_in_networks_loads_no_torch():
    code = (
        "sys.argv = ['bnsweep', 'plan', 'paper-cifar10', '--guess', '--store', 'out/no-such-store'];"
        "from bnsweep import cli; cli.cli(standalone_mode=False)"
    )
    assert not loaded_after(code) & {"torch", "torchvision", "ray", "duckdb", "scipy"}


def test_a_driver_with_ray_loads_no_torch():
    code = "import bnsweep.sweep.run, bnsweep.sweep.progress; bnsweep.sweep.run.prepare_ray(own_cluster=True);"
    assert "torch" not in loaded_after(f"{code} import bnsweep.sweep.ray_engine")


def test_the_inline_engine_needs_neither_ray_nor_duckdb():
    code = "import bnsweep.sweep.engine, bnsweep.sweep.driver, bnsweep.noise.curve, bnsweep.sweep.search.run"
    assert not loaded_after(code) & {"ray", "duckdb"}


def test_training_and_noise_need_no_pydantic():
    code = "import bnsweep.noise.curve, bnsweep.noise.evaluate, bnsweep.training.trainer, bnsweep.training.datasets"
    assert "pydantic" not in loaded_after(code)


def test_a_question_and_a_report_need_no_pydantic():
    assert "pydantic" not in loaded_after("import bnsweep.analysis.database, bnsweep.analysis.contents")


def test_the_tree_in_the_readme_is_the_tree():
    block = re.search(r"```\n(bnsweep/\n.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert block, "README.md has a file tree that starts with bnsweep/"
    listed, folders = set(), []
    for line in block.group(1).splitlines():
        name = line.split("  ")[0].rstrip() if not line.startswith(" ") else line.strip().split("  ")[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
            continue
        listed.add("/".join([*folders, name]))
    real = {str(p.relative_to(ROOT)) for p in SOURCES if p.name != "__init__.py"}
    assert {name for name in listed if name.startswith("bnsweep/") and name.endswith(".py")} == real


def test_rows_of_tables_have_as_many_cells_as_their_heads():
    """A table whose second line has more or fewer is shown as text."""
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        cells = 0
        for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
            if not line.startswith("|"):
                cells = 0
                continue
            own = len(re.findall(r"(?<!\\)\|", line))
            cells = cells or own
            assert own == cells, f"{document.name}:{number}"


def test_links_in_the_documents_resolve():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", document.read_text()):
            if not re.match(r"[a-z]+:", target):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


# Written so that this file does not find itself.
MACHINE_PATH = re.compile(r"(?<![\w./}])/(?:work|workspace|root|home|Users|mnt)/\w")
MERGE = re.compile(r"[<]{7} |[>]{7} |[=]{7}$")  # what git leaves of a conflict
REGISTRY = re.compile(
    r"index[-]url|extra[-]index|pypi[.][a-z]|registry[.]npmjs|files[.]pythonhosted|download[.]pytorch"
)


def test_no_machine_path_and_no_registry_is_named():
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    read = 0
    for name in filter(None, tracked.split("\0")):
        try:
            text = (ROOT / name).read_text(encoding="utf-8")
        except UnicodeDecodeError:  # pictures, Parquet, arrays
            continue
        read += 1
        for number, line in enumerate(text.splitlines(), 1):
            found = MACHINE_PATH.search(line) or REGISTRY.search(line) or MERGE.match(line)
            assert not found, f"{name}, line {number}: {found and found.group()}"
    assert read > len(SOURCES)


@pytest.mark.parametrize("folder", ["work", "root", "home", "Users"])
def test_a_machine_path_would_be_found(folder):
    for text in ("cd {}", "('{}')", "store: {}", '"{}/b"', "PATH={}"):
        assert MACHINE_PATH.search(text.format(f"/{folder}/somebody"))
    assert not MACHINE_PATH.search(f"/srv/{folder}/x s3://lab/{folder}/x https://host/{folder}/x docs/{folder}/x")


def test_a_registry_would_be_found():
    for words in (("--index", "url"), ("--extra", "index"), ("https://pypi", "org"), ("//registry", "npmjs")):
        assert REGISTRY.search("-".join(words)) or REGISTRY.search(".".join(words))


# Ray itself sends pickles between its processes; these are made and read by our own driver and workers alone.
OWN_PICKLES = {"sweep/ray_work.py"}
TENSORS_ALONE = {"training/weights.py": "torch.load"}  # whose restricted reader makes tensors and runs nothing


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_nothing_is_unpickled_or_evaluated(path):
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    restricted = [node for node in nodes if "weights_only=True" in map(ast.unparse, node.keywords)]
    allowed = {TENSORS_ALONE.get(str(path.relative_to(PACKAGE)))}
    assert {ast.unparse(node.func) for node in restricted} <= allowed
    calls = {ast.unparse(node.func) for node in nodes if node not in restricted}
    assert not calls & {"eval", "exec", "compile", "__import__", "torch.load"}
    assert "yaml" not in imports(path) or not calls & {"yaml.load", "yaml.unsafe_load", "yaml.full_load"}  # PyYAML's
    if str(path.relative_to(PACKAGE)) not in OWN_PICKLES:
        unpicklers = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
        assert not unpicklers & {name.split(".")[0] for name in imports(path)}
