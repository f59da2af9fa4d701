"""Manifests: edited ones are refused, and differences are listed."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sign_ext.store import (
    load_transformed,
    transform_to_store,
    verify,
)
from sign_ext.store.manifest import differences


def test_a_manifest_that_was_changed_is_refused(store, sign, source):
    path = store / "manifest.json"
    text = path.read_text()
    changes = {
        '"format": "sign_ext.store"': '"format": "other"',
        '"format_version": 1': '"format_version": 2',
        '"shard-000003.safetensors"': '"../../etc/passwd"',
        '"dtype": "float32"': '"dtype": "int3"',
        '"complete": true': '"complete": false',
        '"sha256": "': '"sha256": "zz',
        "{": "",
    }
    for old, new in changes.items():
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(ValueError, match=r"manifest\.json"):
            load_transformed(store)
        with pytest.raises(FileExistsError, match="--overwrite"):
            transform_to_store(sign, source, store, shard_size=5)
    transform_to_store(sign, source, store, shard_size=5, overwrite=True)
    assert verify(store).faults == ()
    with pytest.raises(FileNotFoundError, match="sign-ext transform"):
        load_transformed(store.parent)


@given(st.recursive(st.integers() | st.text(), lambda deep: st.dictionaries(st.text(), deep)))
def test_nothing_differs_from_itself(value):
    assert differences(value, json.loads(json.dumps(value))) == []
    assert differences({"a": value}, {}) != []
