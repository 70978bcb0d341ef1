"""C++ files that cannot be built."""

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
