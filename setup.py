"""Installs the packages ``prealign`` and ``prealign.kernels`` (the folder ``kernels/``, linked from
``prealign/kernels``)."""

from setuptools import find_packages, setup

setup(packages=find_packages(include=["prealign", "prealign.*"]))
