"""Not in the paper: what explains a gain of SIGN, and what the field would use instead of it."""

from __future__ import annotations

from typing import Any

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.arms import arms, arms_table
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    StagesByName,
    classify_rows,
    present,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.report.schema import Experiment

CONTROLS_DEFAULTS: dict[str, Any] = {
    "network": "basic_cnn",
    "methods": [
        "sign",
        "none",
        "classical",
        "noise",
        "shuffled",
        "other",
        "untrained",
        "negated",
        "signs",
        "input",
        "momentum",
        "true_class",
        "distilled",
        "mixup",
        "mixup_alone",
    ],
}
FIELD_DEFAULTS: dict[str, Any] = {
    "network": "basic_cnn",
    "methods": [
        "sign",
        "classical",
        "trivialaugment",
        "randaugment",
        "augmix",
        "cutmix",
        "adversarial_fast",
        "adversarial",
        "trivialaugment_sign",
    ],
}

CONTROLS_ABOUT = """\
Each row takes as many gradient steps as SIGN does, and each control lacks one property of SIGN's
images. Noise of SIGN's rms, and δ moved to other images, lack the image's own δ. −δ and sign(δ)
lack its direction and its lengths. A Φ of another seed, trained on other images, has not seen
these; an untrained Φ knows nothing. δ at the input is Algorithm 1's third line taken literally,
and momentum accumulates a velocity. The true class's gradient raises one logit instead of all that
Φ has. Distillation gives the student Φ's knowledge without changing
images. Where the step size is not SIGN's own, it moves images as far, in the root mean square at
the larger K."""
FIELD_ABOUT = """\
Augmentations that are in use today, by torchvision, on the original images and on top of classical
augmentation, as SIGN is here; all with as many gradient steps. Operations that need bytes get
images that are rounded and clipped to 0–255. Adversarial training costs more for each step."""


def _recipe(name: str, title: str, about: str, defaults: dict[str, Any]) -> Recipe:
    """A recipe of one table of arms."""

    def plan(planner: StagePlanner) -> StagesByName:
        options = planner.options(name, **defaults)
        return classify_rows(planner, arms(options["network"], options["methods"]))

    def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
        options = planner.options(name, **defaults)
        specs = present(arms(options["network"], options["methods"]), outcomes)
        table = arms_table(planner, specs, outcomes, title)
        networks = [options["network"]]
        return Experiment(
            name=name,
            title=f"{title} (not in the paper)",
            about=about,
            stand_ins=stand_ins(planner, networks),
            settings=settings_used(planner, networks, outcomes),
            tables=(table,),
            findings=findings(table),
        )

    return Recipe(name, plan, summarize, by_rows=True)


CONTROLS = _recipe("controls", "Controls", CONTROLS_ABOUT, CONTROLS_DEFAULTS)
FIELD = _recipe("field", "Augmentations in use today", FIELD_ABOUT, FIELD_DEFAULTS)
