"""Packages are taken from where pip's settings say."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]


def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "tools" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_uv_is_told_of_pips_settings() -> None:
    listed = "\n".join(
        [
            ":env:.find-links='/wheels'",
            ":env:.timeout='180'",
            "global.extra-index-url='https://a.example/simple\\nhttps://b.example/simple'",
            "global.find-links='/elsewhere'",
            "global.index-url='https://mirror.example/simple?x=1'",
            "install.no-index='true'",
            "download.index-url='https://not.example'",
        ]
    )
    install = tool()
    found = install.settings(listed)
    assert found["find-links"] == "/wheels" and found["timeout"] == "180"
    assert install.options(found)[2:] == [
        "--default-index", "https://mirror.example/simple?x=1", "--index", "https://a.example/simple",
        "--index", "https://b.example/simple", "--find-links", "/wheels", "--no-index",
    ]  # fmt: skip


def test_without_settings_uv_takes_its_own() -> None:
    install = tool()
    assert install.options(install.settings("")) == ["--index-strategy", "unsafe-best-match"]
