"""What is taken out of an image goes from the disk and from its distribution's record, and nothing else does."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import cache_from_source
from pathlib import Path

STRIP = Path(__file__).resolve().parents[2] / "docker/scripts/strip"
KEPT = ("torch/__init__.py", "torch/testing/__init__.py", "sympy/testing/__init__.py", "nvidia/cu13/lib/libnvrtc.so.13")
GONE = (
    "torch/test/test_api.py",
    "torch/bin/protoc-3.13.0.0",
    "sympy/core/tests/test_expr.py",
    "nvidia/cusolver/lib/libcusolverMg.so.11",
    "nvidia/cu13/lib/libnvrtc.alt.so.13",
    "triton/backends/nvidia/lib/cupti/libcupti_static.a",
)


def test_files_and_records_go_together(tmp_path: Path) -> None:
    """Bytecode too, which no record names; a record without such files keeps its bytes."""
    for name in (*KEPT, *GONE):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    bytecode = Path(cache_from_source(str(tmp_path / "sympy/core/tests/test_expr.py")))
    bytecode.parent.mkdir()
    bytecode.touch()
    record, other = tmp_path / "some-1.dist-info/RECORD", tmp_path / "other-1.dist-info/RECORD"
    for path, text in ((record, "".join(f"{name},,\n" for name in (*KEPT, *GONE))), (other, "other.py,,\r\n")):
        path.parent.mkdir()
        path.write_bytes(text.encode())

    subprocess.run([sys.executable, str(STRIP), str(tmp_path)], check=True)

    assert [name for name in (*KEPT, *GONE) if (tmp_path / name).exists()] == list(KEPT)
    assert not bytecode.exists()
    assert record.read_text().splitlines() == [f"{name},," for name in KEPT]
    assert other.read_bytes() == b"other.py,,\r\n"
