"""What is imported when: commands that compute nothing do without PyTorch, and the models are there once timm is."""

import ast
import importlib
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import timm
from test_layers import FILES, ROOT, room, rooms_of_design

import coadvise
from coadvise.system.after_import import import_after

HEAVY = ("torch", "timm", "torchvision", "accelerate", "scipy", "sklearn", "matplotlib")
MARK = "imported: "
FIXTURE = Path(__file__).parent / "fixtures" / "934e134" / "run"


def python(code: str, *options: str) -> str:
    """What a fresh process prints."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    done = subprocess.run([sys.executable, *options, "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "leaked" not in done.stderr, done.stderr
    return done.stdout.strip()


def imported_by(*commands: str) -> dict[str, tuple[int, set[str]]]:
    """Exit code of each command, and which of the slow packages it has imported.

    Each is a copy of one process that has imported the command line, which is the same for all of them.
    """
    told = python(f"""
import os, sys
from coadvise.cli.main import main
for command in {commands}:
    if os.fork():
        os.wait()
        continue
    sys.argv = ["coadvise", *command.split()]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    print(f"\\n{MARK}", command, code or 0, *(name for name in {HEAVY} if name in sys.modules), sep="|", flush=True)
    os._exit(0)
""")
    found = {}
    for line in told.splitlines():
        if line.startswith(MARK):
            _, command, code, *modules = line.split("|")
            found[command] = int(code), set(modules)
    assert list(found) == list(commands), told
    return found


def test_commands_that_compute_nothing_import_nothing_slow() -> None:
    commands = (
        "--help", "--version", "recipes", "recipe cit-sak", "recipe cit-s optim.lr=1e-3", "schema",
        "train --help", "cache --help", "plan --help", "predict --help", "models --help", "recipes --help",
        "recipe --help", "schema --help", "report --help", "demo --help", "doctor --help", "bench --help",
        "evaluate --help", "reproduce --help",
    )  # fmt: skip
    assert imported_by(*commands) == dict.fromkeys(commands, (0, set()))


def test_help_and_completion_do_without_numpy() -> None:
    told = python(
        "import sys, coadvise.cli.main; print([n for n in ('numpy', 'pydantic', 'yaml') if n in sys.modules])"
    )
    assert told == "[]"


def test_a_mistake_in_a_recipe_is_told_before_anything_slow_is_imported() -> None:
    commands = [f"{command} digits optim.lrr=1" for command in ("train", "cache", "plan", "bench --recipe", "recipe")]
    assert imported_by(*commands) == dict.fromkeys(commands, (2, set()))


def test_a_report_needs_no_pytorch(tmp_path: Path) -> None:
    shutil.copytree(FIXTURE, tmp_path / "run")
    ((code, modules),) = imported_by(f"report {tmp_path / 'run'}").values()
    assert code == 0 and modules <= {"matplotlib", "scipy"}


@pytest.mark.slow
def test_training_imports_no_more_than_it_needs() -> None:
    """What draws, and what holds the digits, comes when it is needed; and garbage is searched for as before."""
    told = python("""
import gc, sys
from coadvise.system.imports import importing
searches = []
gc.callbacks.append(lambda phase, info: searches.append(phase))
with importing():
    import coadvise.training.train
assert not searches and gc.isenabled() and gc.get_freeze_count() > 100_000
print([name for name in ("matplotlib", "sklearn", "scipy.stats", "tensorboard", "torch.utils.tensorboard",
                         "transformers", "datasets", "onnx", "jinja2") if name in sys.modules])
""")
    assert told == "[]"


ORDERS = (
    "import coadvise, timm",
    "import timm, coadvise",
    "import coadvise; import timm.models",
    "import timm.layers; import coadvise",
    "import coadvise.models, timm",
    "import coadvise; from coadvise import involution; import timm",
    "import coadvise, importlib.util; assert importlib.util.find_spec('timm'); import timm",
    "import coadvise, importlib; importlib.reload(coadvise); import timm; importlib.reload(timm)",
    "import pickle; assert pickle.load(open(pickled, 'rb')).num_classes == 5",
)


@pytest.mark.slow
def test_models_are_registered_whichever_is_imported_first(tmp_path: Path) -> None:
    """Each order in a process of its own; these are copies of one that has PyTorch, which takes long to import."""
    model = timm.create_model("cit_tiny", img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=3, num_classes=5)
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    told = python(f"""
import gc, os, sys, traceback
import huggingface_hub.hf_api, torch, torchvision
gc.disable()  # or each copy would look at all of PyTorch's objects, and copy their memory
pickled = {str(tmp_path / "model.pickle")!r}
for order in {ORDERS}:
    if not os.fork():
        try:
            assert "timm" not in sys.modules and "coadvise" not in sys.modules
            exec(order)
            import timm
            assert timm.create_model("cit_small", depth=1, num_classes=37).num_classes == 37
            assert timm.is_model("rednet26") and timm.is_model("transformer_tiny")
            assert not [f for f in sys.meta_path if "coadvise" in type(f).__module__]
            assert type(timm.__loader__).__name__ == type(timm.__spec__.loader).__name__ == "SourceFileLoader"
        except BaseException:
            print(order, traceback.format_exc(), flush=True)
        os._exit(0)
    os.wait()
""")
    assert not told, told


def test_importing_coadvise_alone_imports_nothing_slow() -> None:
    assert python(f"import coadvise, sys; print([n for n in {HEAVY} if n in sys.modules])") == "[]"
    assert python("import coadvise; print(coadvise.__version__)", "-X", "importtime") == coadvise.__version__


def test_every_public_name_can_be_imported() -> None:
    for name in coadvise.__all__:
        assert getattr(coadvise, name) is not None and name in dir(coadvise)
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        coadvise.trian  # noqa: B018
    with pytest.raises(ImportError, match="trian"):
        from coadvise import trian  # noqa: F401


def test_rooms_below_the_models_leave_timm_to_others() -> None:
    """Importing timm imports the models: what they themselves need must not be in the middle of being imported."""
    rooms = rooms_of_design()
    below = set(rooms[rooms.index("models") + 1 :])
    for path in FILES:
        if room(path) in below:
            for node in ast.parse(path.read_text()).body:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [str(node.module)] if isinstance(node, ast.ImportFrom) and not node.level else []
                assert "timm" not in {name.split(".")[0] for name in names}, path


# --- importing one module after another, with small modules --------------------------------------------------


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str, Path]:
    """Two modules of new names, in a folder on the path; the second imports the first."""
    first, then = f"first_{tmp_path.name}".replace("-", "_"), f"then_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{first}.py").write_text("import time\ntime.sleep(0.1)\nloaded = True\n")
    (tmp_path / f"{then}.py").write_text(f"import time\ntime.sleep(0.05)\nimport {first}\nassert {first}.loaded\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    return first, then, tmp_path


def test_an_import_that_fails_can_be_tried_again(modules: tuple[str, str, Path]) -> None:
    first, then, folder = modules
    good = (folder / f"{first}.py").read_text()
    (folder / f"{first}.py").write_text("raise ImportError('a library is missing')")
    import_after(first, then)
    for _ in range(2):
        with pytest.raises(ImportError, match="a library is missing"):
            importlib.import_module(first)
        assert first not in sys.modules and then not in sys.modules
    (folder / f"{first}.py").write_text(good + "# longer, so that Python reads the file again\n")
    importlib.invalidate_caches()
    importlib.import_module(first)
    assert then in sys.modules


def test_a_module_that_is_not_there_is_missed_by_its_name(modules: tuple[str, str, Path]) -> None:
    import_after("no_such_module", modules[1])
    with pytest.raises(ModuleNotFoundError, match="No module named 'no_such_module'"):
        importlib.import_module("no_such_module")


def test_asking_twice_imports_once(modules: tuple[str, str, Path]) -> None:
    first, then, _ = modules
    before = len(sys.meta_path)
    import_after(first, then)
    import_after(first, then)
    assert len(sys.meta_path) == before + 1
    importlib.import_module(then)
    assert len(sys.meta_path) == before and first in sys.modules
    import_after(first, "json")  # both are there already
    assert len(sys.meta_path) == before


@pytest.mark.parametrize("turn", range(4))
def test_two_threads_may_import_the_two_at_once(modules: tuple[str, str, Path], turn: int) -> None:
    first, then, _ = modules
    import_after(first, then)
    errors: list[BaseException] = []
    start = threading.Barrier(4)

    def load(name: str) -> None:
        start.wait()
        try:
            __import__(name)
        except BaseException as error:
            errors.append(error)

    names = [first, then, first, then] if turn % 2 else [then, first, then, first]
    threads = [threading.Thread(target=load, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not errors and not any(thread.is_alive() for thread in threads)
    assert first in sys.modules and then in sys.modules
