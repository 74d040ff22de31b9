"""Slow rows of the fault tables run only with FCOS_FAULTS=all (``bash scripts/run_fault_tests.sh``)."""

import os

import pytest

from tests.support.namespaces import machines

__all__ = ["machines"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if os.environ.get("FCOS_FAULTS") == "all":
        return
    for item in items:
        if item.get_closest_marker("slow_fault"):
            item.add_marker(pytest.mark.skip(reason="slow fault: bash scripts/run_fault_tests.sh"))
