"""C++ files: how they are built, and what is said where they cannot be."""

import shutil
from pathlib import Path

import pytest

from coadvise.system import native


def test_one_reason_for_several_files_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", str(tmp_path / "g++"))
    build = native.compiled.__wrapped__
    with pytest.warns(RuntimeWarning) as said:
        assert [build(Path(f"{name}.cpp"), f"{name} takes longer") for name in ("rows", "warp")] == [None, None]
    (message,) = (str(one.message) for one in said)
    assert message.startswith("rows takes longer (") and str(tmp_path / "g++") in message and "involution" in message


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_launcher_and_flags_of_the_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As make takes them: `CXX="ccache g++ -DHALF=21"`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "env g++ -DHALF=21")
    source = tmp_path / "half.cpp"
    source.write_text('extern "C" int twice() { return 2 * HALF; }')
    library = native.compiled.__wrapped__(source, "half takes longer")
    assert library is not None and library.twice() == 42


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_a_file_is_built_again_when_what_it_includes_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "g++")
    (tmp_path / "answer.cpp").write_text('#include "number.h"\nextern "C" int answer() { return NUMBER; }')
    answers = []
    for number in (1, 2):
        (tmp_path / "number.h").write_text(f"#define NUMBER {number}")
        library = native.compiled.__wrapped__(tmp_path / "answer.cpp", "answers take longer")
        assert library is not None
        answers.append(library.answer())
    assert answers == [1, 2]
