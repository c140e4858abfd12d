"""The type stubs: mypy --strict accepts an example, and finds its mistakes. The names that a
person is offered."""

import pydoc
import subprocess
import sys
from pathlib import Path

import attn
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


def test_names():
    offered = [name for name in dir(attn) if not name.startswith("__")]
    assert offered == sorted(attn.__all__)
    assert "attention(q" in pydoc.render_doc(attn)  # without PyTorch, too
