"""All experiments by name, in the paper's order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from sign_ext.experiments.recipes import (
    cancel_attack,
    controls,
    delta_only,
    figure1_figure2,
    figure3_figure4,
    figure5,
    inputs_used,
    isic,
    phi_answers,
    sign_at_inference,
    slice_d,
    slices,
    step_size,
    table1_table4,
    table2_table3,
    table5_figure6,
)
from sign_ext.experiments.recipes.recipe import Recipe
from sign_ext.experiments.recipes.summary import findings
from sign_ext.report.schema import Table

RECIPES: dict[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        figure1_figure2.FIGURE1,
        figure1_figure2.FIGURE2,
        phi_answers.RECIPE,
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
        inputs_used.RECIPE,
        cancel_attack.RECIPE,
        sign_at_inference.RECIPE,
        step_size.RECIPE,
        controls.CONTROLS,
        controls.FIELD,
        slices.SLICE_A,
        slices.SLICE_B,
        slices.SLICE_C,
        slice_d.RECIPE,
    )
}

# The title of a table → what writes its findings; of all others, `summary.findings` does.
OWN_FINDINGS: dict[str, Callable[[Table], Sequence[str]]] = {
    figure1_figure2.TITLE: figure1_figure2.findings_of,
    phi_answers.TITLE: phi_answers.findings_of,
    inputs_used.TITLE: inputs_used.findings_of,
    cancel_attack.TITLE: cancel_attack.findings_of,
    sign_at_inference.TITLE: sign_at_inference.findings_of,
    step_size.TITLE: step_size.findings_of,
}


def findings_of(table: Table) -> Sequence[str]:
    """The findings of a table that holds comparisons, written again, as after joining seeds."""
    return OWN_FINDINGS.get(table.title, findings)(table)
