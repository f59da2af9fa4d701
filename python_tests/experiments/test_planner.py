"""Equal gradient steps are equal, whatever the sizes."""

from __future__ import annotations

import dataclasses

import pytest

from sign_ext.experiments.planner import with_equal_steps
from sign_ext.experiments.stages.networks import Network, Train
from sign_ext.experiments.stages.sources import Source
from sign_ext.training import TrainSettings


@pytest.mark.parametrize("epochs", [1, 2, 200])
@pytest.mark.parametrize("images", [1, 5, 31, 32, 33, 64, 65, 257])
@pytest.mark.parametrize("times", [2, 3])
def test_steps_are_those_of_the_enlarged_set(images, epochs, times):
    # With 33 images in batches of 32 the 33rd joins the first batch, but 3 · 33 need 4 batches.
    settings = TrainSettings(epochs=epochs, batch_size=32)
    stage = Train(Source("digits"), images, Network("basic_cnn"), settings)
    enlarged = dataclasses.replace(stage, images=images * times)
    assert with_equal_steps(stage, times).settings.total_steps(images) == (
        settings.total_steps(enlarged.images)
    )
