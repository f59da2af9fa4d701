"""All experiments by name, in the paper's order."""

from __future__ import annotations

from sign_ext.experiments.recipes import (
    controls,
    delta_only,
    figure3_figure4,
    figure5,
    isic,
    slices,
    step_size,
    table1_table4,
    table2_table3,
    table5_figure6,
)
from sign_ext.experiments.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        table1_table4.TABLE1,
        figure3_figure4.FIGURE3,
        isic.RECIPE,
        figure3_figure4.FIGURE4,
        figure5.RECIPE,
        delta_only.RECIPE,
        table2_table3.TABLE2,
        table2_table3.TABLE3,
        table5_figure6.TABLE5,
        table5_figure6.FIGURE6,
        table1_table4.TABLE4,
        step_size.RECIPE,
        controls.CONTROLS,
        controls.FIELD,
        slices.SLICE_A,
        slices.SLICE_B,
        slices.SLICE_C,
    )
}
