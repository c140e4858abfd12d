"""The type stubs: mypy --strict accepts an example, and finds its mistakes."""

import subprocess
import sys
from pathlib import Path

import pytest


def test_mypy():
    pytest.importorskip("mypy", reason="mypy is not installed")
    example = Path(__file__).with_name("typed_example.py")
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--no-incremental",
        "--config-file=",
        str(example),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
