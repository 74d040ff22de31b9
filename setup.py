"""The shipped configs are installed inside the package, as data of ``fcos_train.configs``."""

import sys

from setuptools import find_packages, setup

if sys.version_info < (3, 11):  # noqa: UP036  setuptools of that time does not read pyproject.toml
    sys.exit("error: FCOS-Train needs Python 3.11 or newer; this is Python {}.{}".format(*sys.version_info[:2]))

setup(
    packages=[*find_packages(include=["fcos_train*", "mmcv_overrides*"]), "fcos_train.configs"],
    package_dir={"fcos_train.configs": "configs"},
    package_data={
        "fcos_train.configs": ["*/*.py"],
        "fcos_train": ["**/*.json", "report/templates/*.j2", "py.typed"],
        "mmcv_overrides": ["py.typed"],
    },
)
