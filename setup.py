"""Packages: ``prealign``; ``prealign.kernels``, which is the folder ``kernels/``; ``prealign.launchers`` and
``prealign.configs`` (recipes and sample text), which are folders at the top too."""

from setuptools import find_packages, setup

KERNELS = ["prealign.kernels", *(f"prealign.kernels.{name}" for name in find_packages("kernels"))]

setup(
    packages=[
        *find_packages(include=["prealign", "prealign.*"], exclude=["prealign.kernels", "prealign.kernels.*"]),
        *KERNELS,
        "prealign.launchers",
        "prealign.configs",
    ],
    package_dir={f"prealign.{name}": name for name in ("kernels", "launchers", "configs")},
    package_data={
        "prealign.kernels": ["tiles.json"],
        "prealign.facts": ["*.yaml"],
        "prealign.planning": ["record.yaml"],
        "prealign.reports": ["templates/*.html"],
        "prealign.configs": ["*.yaml", "*/*.yaml", "suites/recipes/*.yaml", "sample_text/*", "README.md"],
    },
)
