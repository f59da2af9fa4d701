"""Not in the paper: what explains a gain of SIGN, and what the field would use instead of it."""

from __future__ import annotations

from sign_ext.experiments.planner import StagePlanner
from sign_ext.experiments.recipes.arms import arms, arms_table
from sign_ext.experiments.recipes.recipe import (
    OutcomesByName,
    Recipe,
    RowSpec,
    StagesByName,
    classify_rows,
    present,
)
from sign_ext.experiments.recipes.summary import findings, settings_used, stand_ins
from sign_ext.report.schema import Experiment

CONTROLS_DEFAULTS: dict[str, list[str]] = {
    "basic_cnn": [
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
FIELD_DEFAULTS: dict[str, list[str]] = {
    "basic_cnn": [
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
    # AdvProp needs batch normalisation.
    "mobilenet_v2": ["sign", "classical", "advprop"],
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
images that are rounded and clipped to 0–255. Adversarial training costs more for each step, and
AdvProp, which also trains on as many adversarial images as clean ones, most. BasicCNN has no batch
normalisation, so AdvProp has a network that has."""


def _recipe(name: str, title: str, about: str, defaults: dict[str, list[str]]) -> Recipe:
    """A recipe of one table of arms, of one network or several."""

    def specs(planner: StagePlanner) -> list[RowSpec]:
        networks = planner.options(name, networks=defaults)["networks"]
        return [row for network, methods in networks.items() for row in arms(network, methods)]

    def plan(planner: StagePlanner) -> StagesByName:
        return classify_rows(planner, specs(planner))

    def summarize(planner: StagePlanner, outcomes: OutcomesByName) -> Experiment:
        rows = present(specs(planner), outcomes)
        table = arms_table(planner, rows, outcomes, title)
        networks = list(dict.fromkeys(row.network for row in rows))
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
