"""Where BVLC caffe is installed, and the small networks that all readers run."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

ENVIRONMENT = "FCOS_CAFFE_PYTHON"


@pytest.fixture(scope="session")
def caffe_python() -> str:
    """A Python that imports BVLC caffe: named by the environment, else one of those that caffe has packages for."""
    named = os.environ.get(ENVIRONMENT)
    for candidate in [named] if named else ["python3.9", "python3.8", "python3.7", "python3.6"]:
        path = shutil.which(candidate)
        if path and subprocess.run([path, "-c", "import caffe"], capture_output=True).returncode == 0:
            return path
    if named:
        pytest.fail(f"{ENVIRONMENT}={named} cannot import caffe")
    pytest.skip(f"no Python 3.6 to 3.9 with BVLC caffe (pip install kendryte-caffe; {ENVIRONMENT}=/path/to/python)")
