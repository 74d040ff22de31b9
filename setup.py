"""The shipped configs are installed inside the package, as data of ``fcos_train.configs``."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["fcos_train*", "mmcv_overrides*"]), "fcos_train.configs"],
    package_dir={"fcos_train.configs": "configs"},
    package_data={
        "fcos_train.configs": ["*/*.py"],
        "fcos_train": ["**/*.json", "py.typed"],
        "mmcv_overrides": ["py.typed"],
    },
)
