"""Sources have the sizes asked for, and a fingerprint of their pixels."""

from __future__ import annotations

import pytest

from sign_ext.experiments.stages.sources import Source, Sources


def test_a_source_knows_its_pixels():
    sources = Sources()
    small = sources.with_fingerprint(Source("digits", 50, 30, 20, 12))
    splits = sources.read(small)
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (50, 30, 20)
    assert splits is sources.read(Source("digits", 50, 30, 20, 12))
    assert len(set(small.fingerprint.split("-"))) == 3
    other = sources.with_fingerprint(Source("digits", 50, 30, 20, 13))
    assert other.fingerprint != small.fingerprint
    assert sources.with_fingerprint(small) == small
    with pytest.raises(ValueError, match="validation_size=5000"):
        sources.read(Source("digits", validation_size=5000))
