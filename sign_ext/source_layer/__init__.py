"""Φ, "the output of the last layer (before the logits)" of the paper's Section 3: found and called.

By default Φ is the *input* of the network's final classifier (a Linear, or a convolution with a
1×1 kernel). `layer=NAME` makes Φ that module's *output*. What comes after Φ is not computed.
"""

from sign_ext.source_layer.check import (
    SumVariation,
    check_inputs,
    check_source,
    check_weights,
    hint_of_layer,
    producer_of,
)
from sign_ext.source_layer.find import find_source_layer, find_with_trail, trail_to, way_back
from sign_ext.source_layer.phi import (
    Phi,
    SourceLayer,
    check_layer_name,
    guess_source_layer,
    in_this_thread,
    is_classifier,
    named_source_layer,
    output_layer,
    tensors_in,
)

__all__ = [
    "Phi",
    "SourceLayer",
    "SumVariation",
    "check_inputs",
    "check_layer_name",
    "check_source",
    "check_weights",
    "find_source_layer",
    "find_with_trail",
    "guess_source_layer",
    "hint_of_layer",
    "in_this_thread",
    "is_classifier",
    "named_source_layer",
    "output_layer",
    "producer_of",
    "tensors_in",
    "trail_to",
    "way_back",
]
