"""Every example in a docstring runs and prints what it says."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest
import torch

import sign_ext

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(sign_ext.__path__, "sign_ext.")
    if not module.name.endswith(("._C", ".__main__", "sign_ext_ops"))
)


def examples_of(name: str) -> list[doctest.DocTest]:
    module = importlib.import_module(name)
    names = {"torch": torch}  # as at a reader's prompt
    found = doctest.DocTestFinder(exclude_empty=True).find(module, name, extraglobs=names)
    return [test for test in found if test.examples]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for test in examples_of(name):
        runner.run(test)
    assert runner.failures == 0


def test_the_public_functions_have_examples():
    modules = ("sign_ext.sign", "sign_ext.sign")
    with_examples = {test.name for module in modules for test in examples_of(module)}
    assert {"sign_ext.sign.iterative_sign", "sign_ext.sign.SignTransform"} <= with_examples
