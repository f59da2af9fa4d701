"""The sentences of a report that are not of one table: scales, settings, seeds, p-values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sign_ext.formatting import counted, duration
from sign_ext.report.learnt import doubted
from sign_ext.report.schema import Experiment, Results

SCALES = {
    "smoke": "Scale “smoke”: a check that every part runs. Its numbers say nothing about a method.",
    "small": "Scale “small”: fewer images, epochs or seeds than the paper’s. What is compared here "
    "was made alike, but the paper’s numbers were not made at this scale.",
    "medium": "Scale “medium”: 5,000 training images a seed, of the paper’s 50,000, and all 10,000 "
    "test images. Φ is trained until it is good for so few. Differences between methods are what "
    "to read; the paper’s numbers were not made at this scale.",
    "gpu": "Scale “gpu”: 10,000 training images a seed, of the paper’s 50,000, and all 10,000 test "
    "images, with as many seeds as minutes of a GPU allow. Differences between methods are what to "
    "read; the paper’s numbers were not made at this scale.",
}

# Before `BY_SEEDS`, in a report that has both kinds of comparisons.
NOT_PAIRED = (
    "Comparisons without a bootstrap are of results that did not keep the answers to each image, "
    "and are judged by an older rule, which finds less. There, "
)

HINTS: Mapping[str, str] = {
    "scatter": "The axes have no unit.",
    "plane": "The axes have no unit.",
    "reliability": "Bars are the accuracy of the images in a bin of confidence; a diamond stands "
    "at the bin’s mean confidence; on the dashed line the two agree. Below: the share of images.",
}

BY_SEEDS = (
    "p is of the two-sided paired t-test over seeds, not corrected for the number of comparisons. "
    "The smallest detectable difference is the one that this many seeds would show with 80% power "
    "at the 5% level: a smaller one may be there and stay unseen. The test set’s error is the "
    "standard error of the difference from the finite test set alone. A verdict other than "
    "“undecided” needs p < 0.05 and, for shares of test images, a difference beyond twice that "
    "error; with one seed, the latter alone."
)

BY_IMAGES = (
    "Two methods are mostly right and wrong on the same images, so errors are paired by image as "
    "well as by seed. Interval and p say what other seeds and another test set would do to the "
    "difference (Obuchowski and Rockette’s analysis, seeds being readers and images cases; areas "
    "under ROC curves by DeLong’s method, compactness by a bootstrap over images). The test set’s "
    "error is the part that all seeds share, which more seeds do not lower. Beside them stand a "
    "bootstrap over seeds and images, and the paired t-test over seeds, which takes this one test "
    "set for all images there are and is wrong too often. “Better” and “worse” need p < 0.05. “No "
    "difference” needs two one-sided tests at the 5% level to exclude a difference beyond the "
    "margin. Otherwise the verdict is “undecided”. The smallest detectable difference is the true "
    "one that as many seeds and images, with errors as large, would find with 80% power, in four "
    "of five such studies; smaller ones are found less often. It is as rough as the errors: three "
    "seeds whose differences deviate by 1 point may come from methods that deviate by 2.1 (the 80% "
    "upper bound; 1.3 for ten seeds). "
)
FAMILIES_READ = (
    "The primary family is one comparison: SIGN against Gaussian noise as large, both with "
    "classical augmentation, at equal gradient steps. The secondary family are the comparisons at "
    "equal gradient steps from which the paper draws its conclusions; Holm’s procedure holds the "
    "probability of even one wrong “better” or “worse” among them at 5%, and that of one wrong “no "
    "difference” likewise. All other comparisons describe: of twenty without any true difference, "
    "one is expected to be judged wrongly."
)
LEARNT_READ = (
    "A network is shown to have learnt if its best validation accuracy is more than always giving "
    "the most common class would reach, by an exact binomial test at 5%, divided by the number of "
    "validations; if it is selected by the area under the ROC curve, if that is more than 0.5, by "
    "Mann and Whitney’s test. Results of earlier versions did not record this: there, the accuracy "
    "on clean test images is held against one in ten. A network that is not shown to have learnt "
    "stays in every number, because leaving it out after looking would be a choice; its row and "
    "its comparisons name it, and say what is left without it."
)


def reading(results: Results) -> tuple[str, ...]:
    """Say how the comparisons of these results are to be read, and notes on what has not learnt."""
    told = [
        each
        for experiment in results.experiments
        for table in experiment.tables
        for each in table.comparisons
    ]
    by_images = any(each.paired_by == "images" for each in told)
    texts = [BY_IMAGES] if by_images else []
    if any(each.paired_by == "seeds" for each in told):
        texts.append(NOT_PAIRED + BY_SEEDS if by_images else BY_SEEDS)
    if any(each.family for each in told):
        texts.append(FAMILIES_READ)
    tables = [table for experiment in results.experiments for table in experiment.tables]
    if any(doubted(row, table) for table in tables for row in table.rows):
        texts.append(LEARNT_READ)
    return tuple(texts)


def format_settings(
    settings: Mapping[str, Any], seeds: Sequence[int] = ()
) -> list[tuple[str, str]]:
    """Write settings as (name, value), step sizes first, because results depend on them most.

    Args:
        settings: name → a plain value, or a list or dict of such values.
        seeds: of the results; a dict with these keys holds one value per seed.

    Example:
        >>> format_settings({"epochs": 9, "step_size": {"0": 2.5, "1": 3.0}}, (0, 1))
        [('step size', '2.5, 3 (one a seed)'), ('epochs', '9')]
    """

    def written(value: Any) -> str:
        if isinstance(value, Mapping) and value and set(map(str, value)) == set(map(str, seeds)):
            return ", ".join(format_value(each) for each in value.values()) + " (one a seed)"
        return format_value(value)

    named = [(_name(name), written(value)) for name, value in _flat(settings).items()]
    return sorted(
        named, key=lambda pair: "step size" not in pair[0]
    )  # stable: the rest keeps its order


def format_value(value: Any) -> str:
    """Write a setting's value for people.

    Example:
        >>> format_value([50, 100]), format_value({"lr": 0.1, "nesterov": True}), format_value(None)
        ('50, 100', 'lr: 0.1, nesterov: yes', 'none')
    """
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{str(k).replace('_', ' ')}: {format_value(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(format_value(each) for each in value) or "none"
    return str(value)


def format_seeds(results: Results) -> str:
    """Write "3 seeds (0, 1, 2)"."""
    return f"{counted(len(results.seeds), 'seed')} ({', '.join(map(str, results.seeds))})"


def computing(experiment: Experiment) -> str:
    """Write how long an experiment's stages took, and how they were made.

    Example:
        >>> computing(Experiment("a", "A", "", seconds=75, made={"commit": "1a2b", "threads": "1"}))
        'Computing took 75 s (commit 1a2b, threads 1).'
    """
    made = ", ".join(f"{name} {value}" for name, value in experiment.made.items())
    return f"Computing took {duration(experiment.seconds)}{f' ({made})' if made else ''}."


def describe_spread(results: Results) -> str:
    """Say what the numbers, ± and differences of the tables mean."""
    spread = (
        f"Each number is the mean over {counted(len(results.seeds), 'seed')}; ± is the sample "
        "standard deviation over them."
        if len(results.seeds) > 1
        else "Each number is of one seed, so its spread is not known."
    )
    return f"{spread} Shares are in percent, their differences in percentage points."


def provenance(results: Results) -> list[tuple[str, str]]:
    """List seeds, commit, machine and versions as (name, value)."""
    made = [("seeds", ", ".join(map(str, results.seeds))), ("scale", results.scale)]
    made.append(("commit", results.commit or "not from a checkout"))
    made += [
        (name.replace("_", " "), format_value(value)) for name, value in results.machine.items()
    ]
    return made + [(name, format_value(value)) for name, value in results.versions.items()]


def _name(name: str) -> str:
    """Write an identifier as words; other names are unchanged."""
    return name.replace("_", " ") if name.isidentifier() else name


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Flatten dicts of dicts; an entry's name becomes "outer: inner"."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and any(isinstance(v, Mapping) for v in value.values()):
            flat |= {f"{_name(name)}: {_name(inner)}": each for inner, each in _flat(value).items()}
        else:
            flat[name] = value
    return flat
