"""The wheel and the source archive: all of the package's files and nothing else, and a command that starts."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a wheel and a source archive, built from what git tracks, or would."""
    folder = tmp_path_factory.mktemp("built")
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git repository")
    for name in listed.stdout.splitlines():
        if name.startswith("src/") or "/" not in name:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    build = "import setuptools.build_meta as b; b.build_sdist('..'); b.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def source_files(folder: Path) -> set[str]:
    source = folder / "source" / "src"
    found = {path.relative_to(source).as_posix() for path in source.rglob("*") if path.is_file()}
    return {name for name in found if ".egg-info" not in name}


def test_the_wheel_has_every_file_of_the_package(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        licences = [name for name in archive.namelist() if "/licenses/" in name]
    assert names == source_files(built)
    assert {Path(name).name for name in licences} == {"LICENSE", "DIGITS.md"}
    endings = {Path(name).suffix for name in names}
    assert {".py", ".yaml", ".j2", ".cpp", ".h", ".npz", ".typed", ".html", ".css", ".js"} <= endings


def test_the_source_archive_has_the_package_and_no_tests(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {f"src/{name}" for name in source_files(built)} <= names
    assert not [name for name in names if name.startswith("tests")]


def test_the_installed_command_starts_from_the_wheel_alone(built: Path, tmp_path: Path) -> None:
    """Installed into an empty environment, with the packages of this one behind it."""
    (wheel,) = built.glob("*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "env"], check=True)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, f"--prefix={tmp_path / 'env'}", "--ignore-installed", wheel], check=True)
    (site / "others.pth").write_text("\n".join(path for path in sys.path if "site-packages" in path))
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [str(tmp_path / "env" / "bin" / "python"), "-c", "import coadvise; print(coadvise.__file__)"]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert Path(said.stdout.strip()) == site / "coadvise" / "__init__.py", said.stderr
    command = [str(tmp_path / "env" / "bin" / "python"), "-m", "coadvise", "recipe", "digits"]
    said = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert said.returncode == 0 and "name: digits" in said.stdout, said.stderr
    assert (tmp_path / "env" / "bin" / "coadvise").is_file()
