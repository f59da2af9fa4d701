"""`pgd`: the steps of Madry et al. by a plain loop, starts, restarts, and who is attacked."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
import torch
from networks import lively, tiny_cnn
from tensors import pixels
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import InputIteration, PixelRangeWarning, iterate_inputs, pgd
from sign_ext.reference import iterate_inputs_reference

CLASSES = 4
UPDATE = {"linf": "sign", "l2": "l2"}


@pytest.fixture
def model(torch_rng) -> nn.Sequential:
    torch.manual_seed(3)
    return lively(tiny_cnn(CLASSES), torch_rng).eval().double()


@pytest.fixture
def images(torch_rng) -> Tensor:
    return pixels(torch_rng, (7, 3, 9, 11)).double()


@pytest.fixture
def labels(model, images) -> Tensor:
    """The network's own answers but for two images, which it misclassifies."""
    labels = model(images).argmax(1)
    labels[2:4] = (labels[2:4] + 1) % CLASSES
    return labels


def losses(model: nn.Module, labels: Tensor):
    return lambda x: F.cross_entropy(model(x), labels, reduction="none")


@pytest.mark.parametrize("backend", ["autograd", "fused"])
@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize(("norm", "epsilon", "step"), [("linf", 8.0, 2.0), ("l2", 50.0, 20.0)])
def test_the_steps_are_those_of_the_definition(
    model, images, labels, norm, epsilon, step, targeted, backend
):
    found = pgd(
        model,
        images,
        labels,
        epsilon=epsilon,
        step_size=step,
        steps=5,
        norm=norm,
        random_start=False,
        targeted=targeted,
        backend=backend,
        batch_size=3,
    )
    wanted = iterate_inputs_reference(
        losses(model, labels),
        images,
        5,
        update=UPDATE[norm],
        step_size=-step if targeted else step,
        project=(norm, epsilon),
        clamp=(0, 255),
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)
    before, after = (losses(model, labels)(x) for x in (images, found))
    assert ((after < before) if targeted else (after > before)).all()


@pytest.mark.parametrize(("norm", "epsilon", "step"), [("linf", 8.0, 2.0), ("l2", 50.0, 20.0)])
def test_random_starts_are_in_the_ball_and_seeded(model, images, labels, norm, epsilon, step):
    def attack(**options):
        return pgd(model, images, labels, epsilon=epsilon, step_size=step, norm=norm, **options)

    # A step that is too small to matter shows where an attack begins.
    begins = pgd(
        model, images, labels, epsilon=epsilon, step_size=1e-9, steps=1, norm=norm, clamp=None
    )
    offset = (begins - images).flatten(1)
    size = offset.abs().amax(1) if norm == "linf" else offset.norm(dim=1)
    assert (size <= epsilon + 1e-6).all()
    assert (size > 0).all()
    assert len(size.unique()) == len(images)
    if norm == "linf":
        assert offset.abs().mean() == pytest.approx(epsilon / 2, rel=0.05)
        assert abs(float(offset.mean())) < 0.05 * epsilon
    one = attack(steps=3, seed=1)
    assert torch.equal(one, attack(steps=3, seed=1))
    torch.testing.assert_close(attack(steps=3, seed=1, batch_size=2), one, rtol=0, atol=1e-9)
    assert not torch.equal(one, attack(steps=3, seed=2))
    assert (one >= 0).all()
    assert (one <= 255).all()
    distance = (one - images).flatten(1)
    distance = distance.abs().amax(1) if norm == "linf" else distance.norm(dim=1)
    assert (distance <= epsilon * (1 + 1e-9)).all()


def own_start(image: Tensor, norm: str, epsilon: float, *numbers: int) -> Tensor:
    """The start that the documentation gives an image of (seed, restart, index)."""
    words = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(words[0]) >> 1)
    noise = torch.empty(image.shape)
    if norm == "linf":
        noise.uniform_(-1, 1, generator=generator)
    else:
        noise.normal_(generator=generator)
        noise *= torch.rand((), generator=generator) / noise.norm()
    return (image + epsilon * noise.double()).clamp(0, 255)


@pytest.mark.parametrize("only_correct", [False, True])
@pytest.mark.parametrize(("norm", "epsilon"), [("linf", 8.0), ("l2", 50.0)])
def test_a_start_is_of_seed_restart_and_index_alone(
    model, images, labels, norm, epsilon, only_correct, monkeypatch
):
    begun = []

    class Noted(InputIteration):
        def transform(self, images, labels=None, *, start=None, **options):
            begun.append(start.clone())
            return super().transform(images, labels, start=start, **options)

    monkeypatch.setattr("sign_ext.attacks.InputIteration", Noted)
    indices = torch.tensor([3, 0, 900, 41, 5, 2**40, 6])
    options = {"epsilon": epsilon, "step_size": 2, "steps": 1, "norm": norm, "restarts": 2}
    options |= {"seed": 4, "only_correct": only_correct}
    attacked = [0, 1, 4, 5, 6] if only_correct else list(range(7))
    for rows in ([0, 1, 2, 3, 4, 5, 6], [6, 2, 5], [1]):
        begun.clear()
        pgd(model, images[rows], labels[rows], indices=indices[rows], batch_size=2, **options)
        assert len(begun) == 2
        for restart, starts in enumerate(begun):
            left = [row for row in rows if row in attacked]
            wanted = [
                own_start(images[row], norm, epsilon, 4, restart, int(indices[row])) for row in left
            ]
            torch.testing.assert_close(starts, torch.stack(wanted), rtol=0, atol=1e-5)
            if rows == [0, 1, 2, 3, 4, 5, 6]:
                kept = starts
        # The same bits as beside all the others.
        assert all(
            torch.equal(one, kept[attacked.index(row)])
            for row, one in zip(left, begun[-1], strict=True)
        )
    begun.clear()
    pgd(model, images, labels, **{**options, "only_correct": False, "restarts": 1})
    for row, start in enumerate(begun[0]):  # by default 0 to N − 1
        wanted = own_start(images[row], norm, epsilon, 4, 0, row)
        torch.testing.assert_close(start, wanted, rtol=0, atol=1e-5)


def test_a_generator_draws_the_seed_once(model, images, labels):
    def attack(**more):
        return pgd(model, images, labels, epsilon=8, step_size=2, steps=1, restarts=2, **more)

    generator = torch.Generator().manual_seed(1)
    first, second = attack(generator=generator), attack(generator=generator)
    assert not torch.equal(first, second)
    drawn = torch.Generator().manual_seed(1)
    for found in (first, second):
        seed = int(torch.randint(2**63 - 1, (), generator=drawn))
        assert torch.equal(found, attack(seed=seed))


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("objective", ["cross_entropy", "margin"])
def test_of_several_restarts_each_image_keeps_the_worst(model, images, labels, objective, targeted):
    def single_attack(restart):
        starts = [own_start(image, "linf", 4, 5, restart, i) for i, image in enumerate(images)]
        return iterate_inputs(
            model,
            images,
            1,
            labels=labels,
            objective=objective,
            update="sign",
            step_size=-2 if targeted else 2,
            project=("linf", 4),
            clamp=(0, 255),
            start=torch.stack(starts),
        )

    single = [single_attack(restart) for restart in range(4)]
    best = pgd(
        model,
        images,
        labels,
        epsilon=4,
        step_size=2,
        steps=1,
        restarts=4,
        objective=objective,
        targeted=targeted,
        seed=5,
    )
    chosen = set()
    for i in range(len(images)):

        def rank(which: int, i: int = i) -> tuple[bool, float]:
            z = model(single[which][i : i + 1]).detach()[0]
            label = int(labels[i])
            others = max(float(z[j]) for j in range(CLASSES) if j != label)
            loss = float(z.exp().sum().log() - z[label])
            loss = loss if objective == "cross_entropy" else others - float(z[label])
            reached = int(z.argmax()) == label
            return (reached, -loss) if targeted else (not reached, loss)

        worst = max(range(4), key=rank)
        chosen.add(worst)
        torch.testing.assert_close(best[i], single[worst][i], rtol=0, atol=1e-5)
    assert len(chosen) > 1  # or nothing was chosen among


@pytest.mark.parametrize("targeted", [False, True])
def test_images_that_are_misclassified_may_be_left(model, images, labels, targeted):
    done = model(images).argmax(1) == labels
    done = done if targeted else ~done
    assert done.any()
    assert not done.all()
    options = {
        "epsilon": 8,
        "step_size": 2,
        "steps": 3,
        "targeted": targeted,
        "random_start": False,
    }
    found = pgd(model, images, labels, only_correct=True, **options)
    every = pgd(model, images, labels, **options)
    assert torch.equal(found[done], images[done])
    torch.testing.assert_close(found[~done], every[~done], rtol=0, atol=1e-9)
    assert not torch.equal(every[done], images[done])
    # Where nobody is left to attack, nothing happens.
    own = model(images).argmax(1)
    same = pgd(
        model, images, own if targeted else (own + 1) % CLASSES, only_correct=True, **options
    )
    assert torch.equal(same, images)


def test_further_inputs_go_with_the_images_that_are_attacked(images):
    class Shifted(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny_cnn(CLASSES)

        def forward(self, x: Tensor, factor: Tensor) -> Tensor:
            return self.body(x) * factor[:, None]

    torch.manual_seed(4)
    model = Shifted().eval().double()
    factor = torch.tensor([1.0, -1, 2, -2, 3, -3, 0.5]).double()
    labels = model.body(images).argmax(1)  # right where the factor is positive
    options = {"epsilon": 8, "step_size": 2, "steps": 2, "random_start": False}
    found = pgd(
        model, images, labels, only_correct=True, model_kwargs={"factor": factor}, **options
    )
    correct = model(images, factor).argmax(1) == labels
    assert correct.tolist() == (factor > 0).tolist()
    assert torch.equal(found[~correct], images[~correct])
    wanted = iterate_inputs_reference(
        lambda x: F.cross_entropy(model(x, factor[correct]), labels[correct], reduction="none"),
        images[correct],
        2,
        update="sign",
        step_size=2.0,
        project=("linf", 8.0),
        clamp=(0, 255),
    )
    torch.testing.assert_close(found[correct], wanted, rtol=0, atol=1e-8)


def test_a_network_in_training_mode_is_attacked_in_evaluation_mode(model, images, labels):
    options = {"epsilon": 8, "step_size": 2, "steps": 2}
    wanted = pgd(model, images, labels, **options)
    training = copy.deepcopy(model).train()
    assert torch.equal(pgd(training, images, labels, **options), wanted)
    assert training.training


def test_images_are_not_written_and_progress_counts_all_restarts(model, images, labels):
    before, seen = images.clone(), []
    pgd(
        model,
        images,
        labels,
        epsilon=8,
        step_size=2,
        steps=2,
        restarts=3,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert torch.equal(images, before)
    assert seen[-1] == (3 * 7 * 2, 3 * 7 * 2)
    assert seen == sorted(seen)


def test_no_images(model):
    none = torch.zeros(0, 3, 9, 11).double()
    options = {"epsilon": 8, "step_size": 2, "steps": 2}
    for more in ({}, {"only_correct": True}, {"restarts": 2}):
        found = pgd(model, none, torch.zeros(0).long(), **options, **more)
        assert found.shape == none.shape


CASES = [
    ({"epsilon": 0}, ValueError, "epsilon must be above 0"),
    ({"epsilon": -8}, ValueError, "epsilon must be above 0"),
    ({"epsilon": float("inf")}, ValueError, "epsilon must be above 0 and finite"),
    ({"epsilon": "8"}, TypeError, "epsilon must be a number"),
    ({"epsilon": 256}, ValueError, "255 in the linf norm"),
    ({"epsilon": 0.9, "clamp": (0, 0.5)}, ValueError, "0.5 in the linf norm"),
    ({"epsilon": 5000, "norm": "l2"}, ValueError, "l2 norm"),
    ({"step_size": 0}, ValueError, "step_size must be above 0"),
    ({"step_size": -1}, ValueError, "step_size must be above 0"),
    ({"steps": 0}, ValueError, "steps must be at least 1"),
    ({"norm": "l1"}, ValueError, "norm must be one of linf, l2"),
    ({"restarts": 0}, ValueError, "restarts must be at least 1"),
    ({"restarts": 2, "random_start": False}, ValueError, "random_start=True, or restarts=1"),
    ({"targeted": 1}, TypeError, "targeted must be True or False"),
    ({"objective": "features"}, ValueError, "no loss of a label"),
    ({"clamp": (255, 0)}, ValueError, "reversed"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"generator": 3}, TypeError, "torch.Generator"),
    ({"indices": [0, 1]}, TypeError, "indices must be a torch.Tensor"),
    ({"indices": torch.zeros(7)}, TypeError, "indices must be integers"),
    ({"indices": torch.arange(6)}, ValueError, r"indices must have shape \(7,\)"),
    ({"indices": torch.arange(7) - 1}, ValueError, "indices must be at least 0, got -1"),
    ({"labels": None}, ValueError, "labels are needed"),
    ({"labels": torch.zeros(7)}, TypeError, "integers"),
    ({"labels": torch.full((7,), 4)}, ValueError, "classes 0 to 3"),
    ({"labels": torch.zeros(6).long()}, ValueError, r"\(7,\)"),
]


@pytest.mark.parametrize(("options", "kind", "message"), CASES, ids=range(len(CASES)))
def test_errors_name_the_argument(model, images, labels, options, kind, message):
    given = {"epsilon": 8, "step_size": 2, "steps": 2, "labels": labels, **options}
    for only_correct in (False, True):
        with pytest.raises(kind, match=message):
            pgd(model, images, only_correct=only_correct, **given)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_radius_of_images_of_0_to_1_is_told_once_for_grey_levels(model, images, labels, norm):
    options = {"norm": norm, "step_size": 0.01, "steps": 1}
    with pytest.warns(PixelRangeWarning, match=r"epsilon=0\.0314 is less.*go up to 25"):
        pgd(model, images, labels, epsilon=8 / 255, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "epsilon", PixelRangeWarning)
        pgd(model, images, labels, epsilon=8 / 255, **options)
        pgd(copy.deepcopy(model), images, labels, epsilon=0.5, **options)


@pytest.mark.parametrize(
    "change",
    [lambda x: x / 255, lambda x: x / 64 - 2],
    ids=["0-1", "standardised"],
)
def test_such_a_radius_fits_other_units(model, images, labels, change):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "epsilon", PixelRangeWarning)
        found = change(images)
        pgd(model, found, labels, epsilon=0.03, step_size=0.01, steps=1, clamp=None)
