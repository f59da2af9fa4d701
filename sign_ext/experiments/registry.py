"""All experiments by name, in the paper's order."""

from __future__ import annotations

from sign_ext.experiments.recipes import (
    delta_only,
    figure3_figure4,
    figure5,
    figure6,
    isic,
    step_size,
    table1,
    table4,
    table5,
)
from sign_ext.experiments.recipes import table2_table3 as table2
from sign_ext.experiments.recipes import table2_table3 as table3
from sign_ext.experiments.recipes.recipe import Recipe

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        table1.RECIPE,
        figure3_figure4.FIGURE3,
        isic.RECIPE,
        figure3_figure4.FIGURE4,
        figure5.RECIPE,
        delta_only.RECIPE,
        table2.RECIPE,
        table3.RECIPE,
        table5.RECIPE,
        figure6.RECIPE,
        table4.RECIPE,
        step_size.RECIPE,
    )
}


# The experiments' names, for the command line, which reads them before anything heavy.


EXPERIMENTS: dict[str, str] = {
    "table1": "accuracy by class on CIFAR-10",
    "figure3": "CIFAR-10 images before and after SIGN",
    "isic": "AUC on skin lesions (Section 3.1)",
    "figure4": "skin lesions before and after SIGN",
    "figure5": "t-SNE maps and compactness of features",
    "delta_only": "accuracy from δ without the image (Section 3.1)",
    "table2": "aleatoric uncertainty",
    "table3": "out-of-distribution images, Tiny ImageNet",
    "table5": "robustness to pixels turned off and to noise",
    "figure6": "what the corruptions look like",
    "table4": "SIGN's images of MobileNetV2 train NASNetMobile",
    "step_size": "accuracy and robustness against step size and K (not in the paper)",
}
