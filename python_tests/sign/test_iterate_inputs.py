"""`iterate_inputs`: every objective, update and projection against a plain loop in float64."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from networks import lively, tiny_cnn
from tensors import pixels
from torch import Tensor, nn
from torch.nn import functional as F

import sign_ext
from sign_ext import (
    BackendError,
    InputIteration,
    NegligibleDeltaWarning,
    SignTransform,
    SourceLayerError,
    TuningPlan,
    iterate_inputs,
    iterative_sign,
)
from sign_ext.engine.fused.tuning_plan import StepChoices, tuning_key
from sign_ext.reference import (
    iterate_inputs_reference,
    iterative_sign_reference,
    pullback_of_ones_reference,
)

CLASSES = 4
OBJECTIVES = ("features", "cross_entropy", "logit", "margin")
UPDATES = {
    "gradient": 100_000.0,
    "sign": 1.5,
    "l2": 20.0,
}  # with step sizes that move some grey levels
PROJECTIONS = (None, ("linf", 4.0), ("l2", 30.0))
BACKENDS = ("autograd", "fused")


@pytest.fixture
def model(torch_rng) -> nn.Sequential:
    torch.manual_seed(3)
    return lively(tiny_cnn(CLASSES), torch_rng).eval().double()


@pytest.fixture
def images(torch_rng) -> Tensor:
    return pixels(torch_rng, (5, 3, 9, 11)).double()


@pytest.fixture
def labels(torch_rng) -> Tensor:
    return torch.randint(0, CLASSES, (5,), generator=torch_rng)


def objective_of(name: str, model: nn.Module, labels: Tensor):
    """The objective as a function of the images, written out for each image."""
    features = copy.deepcopy(model)
    if name == "features":
        features[-1] = nn.Identity()

    def values(x: Tensor) -> Tensor:
        z = features(x)
        if name == "features":
            return z.sum(1)
        found = []
        for row, label in zip(z, labels.tolist(), strict=True):
            others = [row[i] for i in range(len(row)) if i != label]
            if name == "cross_entropy":
                found.append(row.exp().sum().log() - row[label])
            elif name == "logit":
                found.append(row[label])
            else:
                found.append(max(others) - row[label])
        return torch.stack(found)

    return values


def in_parts(images: Tensor, size: int) -> TuningPlan:
    """A plan that takes so many images through a compiled step at once."""
    plan = TuningPlan()
    for precision in ("float32",):
        plan.choices[tuning_key(images, precision)] = StepChoices(size)
    return plan


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_step_is_that_of_the_definition(model, images, labels, objective, update, backend):
    value = objective_of(objective, model, labels)
    given = None if objective == "features" else labels
    for project in PROJECTIONS:
        options = {"update": update, "step_size": UPDATES[update], "project": project}
        options |= {"clamp": (0.0, 255.0)}
        wanted = iterate_inputs_reference(value, images, 4, **options)
        assert (wanted - images).abs().max() > 0.5
        found = iterate_inputs(
            model, images, 4, objective=objective, labels=given, backend=backend, **options
        )
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
@pytest.mark.parametrize("update", UPDATES)
def test_batches_and_micro_batches_have_the_labels_of_their_images(
    model, images, labels, update, momentum
):
    """Every part takes all its steps at once in a compiled trajectory on a CPU."""
    options = {"update": update, "step_size": UPDATES[update], "momentum": momentum}
    options |= {"project": ("l2", 40.0)} if update == "l2" else {}
    value = objective_of("cross_entropy", model, labels)
    wanted = iterate_inputs_reference(value, images, 5, **options)
    model, images = model.float(), images.float()
    for size, parts in ((5, 2), (3, 1), (2, 2), (1, 1)):
        plan = in_parts(images[:size], parts)
        plan.choices.update(in_parts(images[: 5 % size or 1], 1).choices)
        found = iterate_inputs(
            model,
            images,
            5,
            objective="cross_entropy",
            labels=labels,
            backend="fused",
            batch_size=size,
            tune=plan,
            **options,
        )
        off = (found.double() - wanted).abs()
        if update == "sign":  # rounding may turn the sign of a gradient next to zero
            assert (off > 1e-3).double().mean() < 0.01
        else:
            assert off.max() < 0.05 * (wanted - images.double()).abs().max()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "options", [{}, {"momentum": 0.6, "clamp": (0, 255)}, {"snapshots": (1, 4)}], ids=str
)
def test_sign_is_the_special_case_with_the_same_bits(model, images, backend, options):
    for dtype in (torch.float32, torch.float64):
        network, given = copy.deepcopy(model).to(dtype), images.to(dtype)
        sign = iterative_sign(network, given, 4, step_size=2000.0, backend=backend, **options)
        same = iterate_inputs(network, given, 4, step_size=2000.0, backend=backend, **options)
        ends = (sign[4], same[4]) if isinstance(sign, dict) else (sign, same)
        assert torch.equal(*ends)
        plain = {key: value for key, value in options.items() if key != "snapshots"}
        phi = copy.deepcopy(model)[:-1]
        wanted = iterative_sign_reference(phi, images, 4, step_size=2000.0, **plain)
        moved = (wanted - images).norm()
        assert moved > 10
        assert (ends[1].double() - wanted).norm() < 1e-3 * moved


def test_sign_updates_by_the_stem_and_what_needs_the_gradient_fills_it_by_that(
    model, images, monkeypatch
):
    """SIGN's own step has no δ in memory; for others the same operator adds it to zeros."""
    from sign_ext.engine.fused import step

    targets: list[bool] = []
    original = step.stem_update_

    def counted(p, *others, **options):
        if p.shape == images.shape:  # not the check's one random image
            targets.append(bool(p.any()))
        return original(p, *others, **options)

    model, images = model.float(), images.float()
    monkeypatch.setattr(step, "stem_update_", counted)
    iterate_inputs(model, images, 3, backend="fused")
    iterative_sign(model, images, 3, backend="fused")
    assert targets == [True] * 6
    targets.clear()
    iterate_inputs(model, images, 3, backend="fused", update="sign")
    assert targets == [False] * 3


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_function_is_an_objective(model, images, labels, backend):
    options = {"update": "l2", "step_size": 20.0, "backend": backend, "batch_size": 2}

    def loss(output: Tensor, of: Tensor) -> Tensor:
        return F.cross_entropy(output, of, reduction="none")

    named = iterate_inputs(model, images, 3, objective="cross_entropy", labels=labels, **options)
    found = iterate_inputs(model, images, 3, objective=loss, labels=labels, **options)
    torch.testing.assert_close(found, named, rtol=0, atol=1e-9)

    def entropy(output: Tensor) -> Tensor:
        return -(output.softmax(1) * output.log_softmax(1)).sum(1)

    found = iterate_inputs(model, images, 3, objective=entropy, **options)
    wanted = iterate_inputs_reference(
        lambda x: entropy(model(x)), images, 3, update="l2", step_size=20.0
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)

    def distance(output: Tensor, wished: Tensor) -> Tensor:
        return -(output - wished).square().sum(1)

    wished = torch.randn(5, CLASSES, generator=torch.Generator().manual_seed(1)).double()
    found = iterate_inputs(model, images, 3, objective=distance, labels=wished, **options)
    wanted = iterate_inputs_reference(
        lambda x: distance(model(x), wished), images, 3, update="l2", step_size=20.0
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_snapshots_start_and_in_place(model, images, labels, backend):
    options = {"update": "sign", "step_size": 2.0, "project": ("linf", 5.0)}
    value = objective_of("margin", model, labels)
    start = images + 3
    common = {"objective": "margin", "labels": labels, "backend": backend, "batch_size": 2}
    found = iterate_inputs(model, images, 4, snapshots=(4, 1), start=start, **common, **options)
    assert list(found) == [4, 1]
    for steps, result in found.items():
        wanted = iterate_inputs_reference(value, images, steps, start=start, **options)
        torch.testing.assert_close(result, wanted, rtol=0, atol=1e-8)
        assert (result - images).abs().max() <= 5 + 1e-9
    given = images.clone()
    end = iterate_inputs(model, given, 4, start=start, out=given, **common, **options)
    assert end is given
    torch.testing.assert_close(given, found[4], rtol=0, atol=0)


class Conditioned(nn.Module):
    """Logits that depend on a number that comes with each image."""

    def __init__(self) -> None:
        super().__init__()
        self.body = tiny_cnn(CLASSES)

    def forward(self, x: Tensor, shift: Tensor, scale: float = 1.0) -> Tensor:
        return self.body(x) * shift[:, None] * scale


def test_further_inputs_go_with_their_images(images, labels):
    torch.manual_seed(5)
    model = Conditioned().eval().double()
    shift = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0]).double()
    found = iterate_inputs(
        model,
        images,
        3,
        objective="cross_entropy",
        labels=labels,
        update="l2",
        step_size=10.0,
        batch_size=2,
        model_kwargs={"shift": shift, "scale": 2.0},
    )
    wanted = iterate_inputs_reference(
        lambda x: F.cross_entropy(model(x, shift, 2.0), labels, reduction="none"),
        images,
        3,
        update="l2",
        step_size=10.0,
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


class Several(nn.Module):
    """A network with several outputs, or one in a container."""

    def __init__(self, form) -> None:
        super().__init__()
        self.body, self.form = tiny_cnn(CLASSES), form

    def forward(self, x: Tensor):
        return self.form(self.body(x))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "form",
    [lambda z: {"logits": z, "other": z.sum(1)}, lambda z: (z,), lambda z: {"out": z}],
    ids=["logits", "tuple", "one"],
)
def test_an_output_in_a_container_is_read(images, labels, form, backend):
    torch.manual_seed(5)
    model = Several(form).eval().double()
    options = {"objective": "logit", "labels": labels, "step_size": 1000.0, "backend": backend}
    found = iterate_inputs(model, images, 2, **options)
    torch.testing.assert_close(found, iterate_inputs(model.body, images, 2, **options))


def test_a_network_of_several_outputs_asks_for_a_layer(images, labels):
    model = Several(lambda z: (z, z * 2)).eval().double()
    with pytest.raises(SourceLayerError, match=r"2 tensors.*layer=NAME"):
        iterate_inputs(model, images, 2, objective="margin", labels=labels)
    found = iterate_inputs(model, images, 2, objective="margin", labels=labels, layer="body")
    wanted = iterate_inputs(model.body, images, 2, objective="margin", labels=labels)
    torch.testing.assert_close(found, wanted)


def test_a_softmax_is_no_logits(model, images, labels):
    soft = nn.Sequential(model, nn.Softmax(1))
    for objective in ("cross_entropy", "margin"):
        with pytest.raises(SourceLayerError, match=r"softmax.*layer=NAME"):
            iterate_inputs(soft, images, 1, objective=objective, labels=labels)
    options = {"objective": "cross_entropy", "labels": labels, "step_size": 100.0}
    wanted = iterate_inputs(model, images, 2, **options)
    torch.testing.assert_close(iterate_inputs(soft, images, 2, layer="0", **options), wanted)
    # The cross-entropy of log-probabilities is that of the logits.
    logs = nn.Sequential(model, nn.LogSoftmax(1))
    for backend in BACKENDS:
        found = iterate_inputs(logs, images, 2, backend=backend, **options)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_alone(model, images, labels, backend):
    iteration = InputIteration(model, objective="margin", backend=backend, batch_size=2)
    x = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(objective_of("margin", model, labels)(x).sum(), x)
    found = iteration.gradients(images, labels)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(iteration.outputs(images), model(images).detach())
    # A step after it is a step: the two do not share what is kept.
    moved = iteration.transform(images, labels, steps=1)
    torch.testing.assert_close(moved, images + wanted)
    assert iteration.gradients(images[:0], labels[:0]).shape == (0, 3, 9, 11)
    # Of SIGN it is δ, also where a step takes it elsewhere.
    sign = SignTransform(model, 2, backend=backend, linearize_at="input", momentum=0.5)
    laid_out = images.to(memory_format=torch.channels_last)
    delta = sign.gradients(laid_out)
    torch.testing.assert_close(delta, pullback_of_ones_reference(model[:-1], images))
    assert delta.stride() == laid_out.stride()


def test_the_network_is_left_as_it_is_and_evaluated(model, images, labels):
    wanted = iterate_inputs(model, images, 2, objective="logit", labels=labels, step_size=99.0)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = iterate_inputs(model, images, 2, objective="logit", labels=labels, step_size=99.0)
    assert torch.equal(found, wanted)
    assert model.training
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_copies_and_other_options(model, images, labels):
    iteration = InputIteration(model, 3, objective="cross_entropy", update="sign", step_size=2.0)
    again = pickle.loads(pickle.dumps(iteration))
    assert again.settings == iteration.settings
    assert torch.equal(again.transform(images, labels), iteration(images, labels))
    other = iteration.with_options(update="l2", project=("l2", 3.0))
    assert other.settings.rule.project == ("l2", 3.0)
    assert other.settings.objective == "cross_entropy"
    assert (other.transform(images, labels) - images).flatten(1).norm(dim=1).max() <= 3 + 1e-9


def test_explain_names_the_objective(model, images):
    model, images = model.float(), images.float()
    text = str(InputIteration(model, objective="margin", update="sign").explain(images))
    assert "objective  margin; steps along its gradient's sign" in text
    assert "the logits of 'the model'" in text
    assert "no δ in memory" not in text
    plain = str(InputIteration(model, objective="margin", backend="fused").explain(images))
    assert "no δ in memory" in plain
    assert "objective" not in str(InputIteration(model).explain(images))
    ball = InputIteration(model, project=("l2", 3)).explain(images)
    assert "l2 ball of 3" in ball.objective
    assert not ball.reads_output
    assert "the function 'loss'" in str(InputIteration(model, objective=loss).explain(images))


def loss(output: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(output, labels, reduction="none")


def test_the_chip_serves_signs_own_step_and_says_why():
    from sign_ext.engine.onchip.engine import why_settings_refused
    from sign_ext.engine.trajectory import Problem
    from sign_ext.settings import IterationSettings

    def why(**options) -> str | None:
        settings = IterationSettings(precision="bfloat16", **options)
        return why_settings_refused(Problem(lambda x: x, settings, torch.float32))

    assert why() is None
    assert 'serves objective="features"' in why(objective="cross_entropy")
    assert "sign" in why(update="sign")
    assert "linf ball" in why(project=("linf", 3))


def test_a_gradient_that_vanishes_is_told(images, labels):
    """The softmax of such logits is 0 and 1 in float32."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 9 * 11, CLASSES))
    nn.init.zeros_(model[1].weight)
    with torch.no_grad():
        model[1].weight[0] = 1.0
    zeros = torch.zeros(5, dtype=torch.long)
    with pytest.warns(NegligibleDeltaWarning, match=r'cross entropy.*objective="margin"'):
        found = iterate_inputs(
            model, images.float(), 2, objective="cross_entropy", labels=zeros, update="sign"
        )
    assert torch.equal(found, images.float())


CASES = [
    ({"objective": "margin"}, ValueError, "needs labels"),
    ({"labels": torch.zeros(5).long()}, ValueError, "labels have no use"),
    ({"objective": "logit", "labels": [0] * 5}, TypeError, "torch.as_tensor"),
    ({"objective": "logit", "labels": torch.zeros(5)}, TypeError, "integers"),
    ({"objective": "logit", "labels": torch.zeros(5).bool()}, TypeError, "integers"),
    ({"objective": "logit", "labels": torch.zeros(4).long()}, ValueError, r"\(5,\)"),
    ({"objective": "logit", "labels": torch.zeros(5, 4).long()}, ValueError, r"argmax\(1\)"),
    ({"objective": "logit", "labels": torch.tensor([0, 1, 4, 0, 0])}, ValueError, "got 4.*image 2"),
    ({"objective": "logit", "labels": torch.tensor([0, -1, 0, 0, 0])}, ValueError, "0 to 3.*-1"),
    ({"objective": "loss"}, ValueError, "objective must be one of features"),
    ({"objective": 3}, TypeError, "objective must be one of"),
    ({"update": "linf"}, ValueError, "update must be one of gradient, sign, l2"),
    ({"update": "none"}, ValueError, "update must be one of"),
    ({"project": ("l1", 3)}, ValueError, "norm must be one of linf, l2"),
    ({"project": ("l2", 0)}, ValueError, "above 0"),
    ({"project": ("l2", float("nan"))}, ValueError, "finite"),
    ({"project": 8}, TypeError, "pair"),
    ({"start": torch.zeros(5, 3, 9, 12)}, ValueError, "start must be shaped"),
    ({"start": torch.zeros(5, 3, 9, 11).long()}, TypeError, "start must be a floating"),
    ({"start": torch.full((5, 3, 9, 11), torch.nan)}, ValueError, "NaN"),
    ({"objective": lambda z: z.sum()}, ValueError, r"one floating number an image, \(1,\), such"),
    ({"objective": lambda z: z}, ValueError, "one floating number an image"),
    ({"objective": lambda z: z.argmax(1)}, ValueError, "one floating number an image"),
    ({"objective": lambda z: 3.0}, TypeError, "returned a float"),
    ({"objective": lambda z: z.detach().sum(1)}, ValueError, "no gradient"),
    ({"objective": lambda z: z.sum(1) / len(z)}, ValueError, "mixes the images"),
    ({"objective": lambda z: (z - z.mean(0)).square().sum(1)}, ValueError, "mixes the images"),
    (
        {"objective": lambda z, y: z.sum(1), "labels": torch.zeros(4)},
        ValueError,
        "a row for each of the 5",
    ),
    ({"objective": "logit", "labels": torch.zeros(5).long(), "layer": "x"}, ValueError, "layer"),
    ({"objective": "logit", "labels": torch.zeros(5).long(), "layer": "3"}, ValueError, "layer="),
    ({"backend": "onchip", "update": "sign"}, BackendError, "onchip"),
]


@pytest.mark.parametrize(("options", "kind", "message"), CASES, ids=range(len(CASES)))
def test_errors_name_the_argument(model, images, options, kind, message):
    with pytest.raises(kind, match=message):
        iterate_inputs(model, images, 2, **options)


def test_the_public_names():
    for name in ("iterate_inputs", "InputIteration", "pgd", "integrated_gradients", "smoothgrad"):
        assert name in sign_ext.__all__
        assert getattr(sign_ext, name).__doc__
