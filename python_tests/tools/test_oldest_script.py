"""The test paths in tools/test_oldest.sh exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_every_path_in_the_script_exists() -> None:
    script = (ROOT / "tools/test_oldest.sh").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^tests=\((.*)\)$", script, re.MULTILINE)
    command = ["bash", "-c", f"printf '%s\\n' {listed}"]  # bash expands the braces
    expanded = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert len(expanded) > 4
    assert [path for path in expanded if not (ROOT / path).exists()] == []
