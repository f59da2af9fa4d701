"""What `explain()` reports; python_tests/engine/test_backends.py holds it to what then runs."""

from __future__ import annotations

from sign_ext import SignTransform
from sign_ext.ops.native import NATIVE


def test_the_answers(model, images):
    sign = SignTransform(model, 7, snapshots=(3, 7))
    assert "guess" in str(sign.explain())
    answer = sign.explain(images)
    assert answer.source_layer == "the input of '9' (Linear 28 → 4)"
    assert answer.backend == ("fused" if NATIVE.loaded else "autograd")
    assert answer.products == 7
    assert "3, 7" in str(answer)
    assert answer.to_dict()["layout"] == "channels_last"
    assert SignTransform(model, 7, linearize_at="input").explain().products == 1
    assert "output of '5'" in str(SignTransform(model, layer="5").explain())
