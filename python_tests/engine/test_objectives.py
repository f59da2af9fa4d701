"""Steps that begin their backward pass with an objective's cotangent, on every kind of program."""

from __future__ import annotations

import pytest
import torch
from fake_cuda import CUDA, constants_without_values, fake_cuda, looked_at, program_on_cuda
from measured_memory import peak_bytes
from networks import lively, tiny_cnn
from op_examples import EXAMPLES, example
from tensors import pixels
from test_graphed import Recorder
from torch import Tensor, nn
from torch.nn import functional as F

from sign_ext import InputIteration, SignTransform
from sign_ext.compiler.build import compile_phi
from sign_ext.engine import backends
from sign_ext.engine.fused.engine import FusedEngine
from sign_ext.engine.fused.step import Step
from sign_ext.engine.fused.trajectory import RecordedTrajectory
from sign_ext.engine.fused.tuning_plan import StepChoices
from sign_ext.engine.graphed import GraphedEngine
from sign_ext.engine.objective import (
    Target,
    cotangent_of,
    cross_entropy_cotangent,
    logit_cotangent,
    margin_cotangent,
    values_of,
)
from sign_ext.engine.trajectory import Problem
from sign_ext.engine.update import Ball, update_
from sign_ext.eval_state import computing
from sign_ext.ops.native import NATIVE
from sign_ext.ops.watch import new_counts, new_watch
from sign_ext.settings import IterationSettings, StepRule
from sign_ext.source_layer import Phi, output_layer

needs_native = pytest.mark.skipif(not NATIVE.loaded, reason="the operators' schemas are native")
LABELS = torch.tensor([2, 0, 1, 1, 2])


def entropy(output: Tensor) -> Tensor:
    return -(output.softmax(1) * output.log_softmax(1)).sum(1)


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_kind_of_operation_takes_an_objectives_cotangent(name):
    """Islands, tokens, norms and convolutions, in float64 and in micro-batches."""
    model, images = example(name)
    model, images = model.double(), images.double()
    iteration = InputIteration(model, objective="cross_entropy", backend="fused")
    with iteration._prepared(images) as (problem, *_), torch.no_grad():
        program = iteration.engines.fused.program(problem, images)
        assert program.by_objective
        assert not program.folded
        step = Step(program, torch.float64, images.device, 5, StepChoices(2))
        for first in (0, 2, 4):
            part, labels = images[first : first + 2], LABELS[first : first + 2]
            x = part.clone().requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(model(x), labels, reduction="sum")
                (wanted,) = torch.autograd.grad(loss, x)
            laid_out = part.contiguous(memory_format=torch.channels_last)
            cotangent = cotangent_of(StepRule("cross_entropy"), labels)
            found = step.delta(laid_out, cotangent)
            assert (found - wanted).norm() <= 1e-7 * wanted.norm()


@pytest.mark.parametrize(
    "last",
    [
        nn.ReLU(),
        nn.LogSoftmax(1),
        nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Softmax(2)),
        nn.Sequential(nn.Unflatten(1, (2, 3, 1)), nn.ReLU6()),
        nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)),
    ],
    ids=["activation", "log_softmax", "tokens", "picture", "one_number"],
)
def test_outputs_of_every_shape(last, torch_rng):
    """An activation, a norm or a view at the end is not folded into a cotangent of ones."""
    torch.manual_seed(2)
    model = nn.Sequential(tiny_cnn(6), last).eval().double()
    images = pixels(torch_rng, (5, 3, 9, 11)).double()

    def objective(output: Tensor) -> Tensor:
        return (output + 0.1).square().reshape(len(output), -1).sum(1)

    x = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(objective(model(x)).sum(), x)
    for backend in ("autograd", "fused"):
        iteration = InputIteration(model, objective=objective, backend=backend, batch_size=3)
        found = iteration.gradients(images)
        assert wanted.norm() > 0
        assert (found - wanted).norm() <= 1e-9 * wanted.norm()


def test_the_cotangents_are_the_objectives_gradients(torch_rng):
    output = torch.randn(5, 3, generator=torch_rng).double()
    known = {
        "cross_entropy": cross_entropy_cotangent,
        "logit": logit_cotangent,
        "margin": margin_cotangent,
    }
    for name, cotangent in known.items():
        z = output.clone().requires_grad_()
        values = values_of(name, z, LABELS)
        numbers = values.tolist()
        for i, (row, label) in enumerate(zip(output.tolist(), LABELS.tolist(), strict=True)):
            others = max(row[j] for j in range(3) if j != label)
            wanted = {
                "cross_entropy": torch.tensor(row).exp().sum().log() - row[label],
                "logit": row[label],
                "margin": others - row[label],
            }[name]
            assert numbers[i] == pytest.approx(float(wanted), rel=1e-6)
        (wanted,) = torch.autograd.grad(values.sum(), z)
        torch.testing.assert_close(cotangent(output, LABELS), wanted)
    # Outputs in lower precision: the softmax is taken in float32.
    half = cotangent_of(StepRule("cross_entropy"), LABELS)(output.bfloat16())
    assert half.dtype == torch.bfloat16
    wanted = cross_entropy_cotangent(output.bfloat16().float(), LABELS)
    torch.testing.assert_close(half, wanted.bfloat16(), rtol=0, atol=0)


def test_bfloat16_steps_are_near(torch_rng):
    torch.manual_seed(2)
    model = lively(tiny_cnn(4), torch_rng).eval()
    images = pixels(torch_rng, (5, 3, 9, 11))
    labels = torch.tensor([3, 0, 1, 1, 2])
    x = images.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(F.cross_entropy(model(x), labels, reduction="sum"), x)
    for backend in ("autograd", "fused"):
        iteration = InputIteration(
            model, objective="cross_entropy", backend=backend, precision="bfloat16"
        )
        found = iteration.gradients(images, labels)
        assert found.dtype == torch.float32
        assert 0 < (found - wanted).norm() < 0.25 * wanted.norm()


OPTIONS = [
    {"update": "sign", "step_size": 1.0, "project": ("linf", 3.0), "clamp": (0.0, 255.0)},
    {"update": "l2", "step_size": 9.0, "project": ("l2", 12.0), "momentum": 0.5},
    {"update": "gradient", "step_size": 9e4},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["update"])
@pytest.mark.parametrize("backend", ["graphed", "fused"])
def test_a_recorded_step_reads_labels_and_originals_from_its_own_buffers(
    backend, options, torch_rng
):
    """As CUDA records it: the second call's are others, and the step is not recorded again."""
    torch.manual_seed(2)
    model = lively(tiny_cnn(3), torch_rng).eval()
    given = [pixels(torch_rng, (5, 3, 9, 11)) for _ in range(3)]
    starts = [x + 2 for x in given]
    labels = [LABELS, LABELS.flip(0), 2 - LABELS]
    recorder = Recorder()
    iteration = InputIteration(model, 3, objective="cross_entropy", backend="autograd", **options)
    wanted = [
        iteration.transform(x, y, start=s) for x, y, s in zip(given, labels, starts, strict=True)
    ]
    if backend == "graphed":
        iteration.engines._engines["graphed"] = GraphedEngine(model, recorder)
        iteration.engines.candidates = lambda _: [backends.BackendChoice("graphed", "here")]
        found = [
            iteration.transform(x, y, start=s)
            for x, y, s in zip(given, labels, starts, strict=True)
        ]
    else:
        found = []
        with iteration._prepared(given[0]) as (problem, *_), torch.no_grad():
            fused = FusedEngine(model)
            step = fused.step(problem, given[0])
            first = Target(labels[0], given[0])
            trajectory = RecordedTrajectory(problem, starts[0], step, recorder, first)
            for x, y, s in zip(given, labels, starts, strict=True):
                trajectory.start(s, Target(y, x))
                trajectory.advance(3)
                found.append(trajectory.iterate.clone())
    assert recorder.records == 1
    for got, want, x in zip(found, wanted, given, strict=True):
        moved = (want - x).norm()
        assert moved > 1
        assert ((got - want).abs() > 1e-3).double().mean() < 0.01
    assert (wanted[0] - wanted[1]).abs().max() > 0.1


def test_other_kinds_of_labels_record_another_step(torch_rng):
    model = tiny_cnn(3).eval()
    images = pixels(torch_rng, (5, 3, 9, 11))
    recorder = Recorder()
    weighted = InputIteration(
        model, 2, objective=lambda z, y=None: z.sum(1) if y is None else z[:, 0] * y, update="sign"
    )
    weighted.engines._engines["graphed"] = GraphedEngine(model, recorder)
    weighted.engines.candidates = lambda _: [backends.BackendChoice("graphed", "here")]
    first = weighted.transform(images)
    assert torch.equal(weighted.transform(images, torch.ones(5)), weighted(images, torch.ones(5)))
    other = weighted.transform(images, torch.ones(5))
    assert recorder.records == 2
    assert not torch.equal(first, other)
    weighted.gradients(images)
    assert recorder.records == 3
    assert torch.equal(weighted.transform(images), first)
    assert recorder.records == 3


@needs_native
@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options["update"])
@pytest.mark.parametrize("objective", ["cross_entropy", "logit", "margin", entropy])
def test_a_step_can_be_captured(objective, options):
    """Nothing is read back, copied from the host, or CPU only: objective, update, projection."""
    model = tiny_cnn(3).eval()
    settings = IterationSettings(objective=objective, **options)
    with computing(model), torch.no_grad():
        program = compile_phi(Phi(model, output_layer(model)), torch.rand(1, 3, 9, 11))
    with fake_cuda():
        with torch.no_grad(), constants_without_values():
            step = Step(program_on_cuda(program), torch.float32, CUDA, 5, StepChoices(5))
        p = torch.empty(5, 3, 9, 11, device=CUDA).contiguous(memory_format=torch.channels_last)
        labels = torch.empty(5, dtype=torch.long, device=CUDA)
        ball = Ball(settings.rule, p, settings.clamp) if settings.rule.project else None
        velocity = torch.empty_like(p) if settings.momentum else None
        counts, watch = new_counts(CUDA), new_watch(torch.float32, CUDA)
        from_logits = cotangent_of(settings.rule, None if objective is entropy else labels)

        def work() -> None:
            with torch.no_grad():
                g, _ = step.stem_cotangent(p, None if objective is entropy else from_logits)
                assert g.device == CUDA
                delta = step.delta(p, None if objective is entropy else from_logits)
                update_(
                    p,
                    delta,
                    velocity,
                    settings.rule,
                    ball,
                    slice(0, 5),
                    step_size=1.0,
                    momentum=0.5,
                    clamp=settings.clamp,
                    watch=watch,
                    counts=counts,
                )

        _, names = looked_at(work)
        assert "aten::add_" in names


@needs_native
def test_a_functions_gradient_can_be_captured():
    """By the graph of its own, between the two passes; by hand, as for islands."""
    from unittest import mock

    from fake_cuda import gradients_by_hand

    with fake_cuda():
        output = torch.empty(5, 3, device=CUDA)
        place = "sign_ext.engine.objective.torch.autograd.grad"
        with mock.patch(place, gradients_by_hand), torch.no_grad():
            g, names = looked_at(lambda: cotangent_of(StepRule(entropy), None)(output))
    assert g.shape == (5, 3)
    assert names


def test_the_memory_plan_has_the_head(torch_rng):
    torch.manual_seed(2)
    body = tiny_cnn(3)[:-1]
    model = nn.Sequential(*body, nn.Linear(28, 3000), nn.ReLU(), nn.Linear(3000, 2000)).eval()
    images = pixels(torch_rng, (16, 3, 19, 23)).to(memory_format=torch.channels_last)
    labels = torch.zeros(16, dtype=torch.long)
    iteration = InputIteration(model, objective="logit", backend="fused")
    with iteration._prepared(images) as (problem, *_), torch.no_grad():
        step = iteration.engines.fused.step(problem, images)
        cotangent = cotangent_of(StepRule("logit"), labels)
        measured = peak_bytes(lambda: step.stem_cotangent(images, cotangent), images.device)
    assert measured == pytest.approx(16 * step.memory.peak, rel=0.1)


def test_signs_programs_and_an_objectives_do_not_mix(torch_rng):
    """They are kept with the network, for the same layer by name."""
    torch.manual_seed(2)
    model = tiny_cnn(4).eval()
    images, labels = pixels(torch_rng, (5, 3, 9, 11)), torch.tensor([3, 0, 1, 1, 2])
    options = {"layer": "9", "backend": "fused", "step_size": 2e4}
    sign = SignTransform(model, 2, **options)
    logit = InputIteration(model, 2, objective="logit", **options)
    first = (sign.transform(images), logit.transform(images, labels))
    again = (sign.transform(images), logit.transform(images, labels))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(*first)
    assert sign.program(images).folded
    assert not logit.program(images).folded
    assert str(logit.program(images)).startswith("the output: the logits of '9'")


def test_changed_weights_are_followed(torch_rng):
    torch.manual_seed(2)
    model = tiny_cnn(4).eval()
    images, labels = pixels(torch_rng, (5, 3, 9, 11)), torch.tensor([3, 0, 1, 1, 2])
    iteration = InputIteration(model, 2, objective="margin", step_size=2e4, backend="fused")
    before = iteration.transform(images, labels)
    with torch.no_grad():
        model[-1].weight.neg_()  # which SIGN does not read
    after = iteration.transform(images, labels)
    plain = InputIteration(model, 2, objective="margin", step_size=2e4, backend="autograd")
    torch.testing.assert_close(after, plain.transform(images, labels), rtol=0, atol=1e-2)
    assert (after - before).abs().max() > 0.1


def test_problem_and_settings_stay_signs_own():
    """SIGN's settings have no objective on disk, and their rule is SIGN's."""
    from sign_ext.settings import SIGN, Settings

    assert Settings().rule == SIGN == IterationSettings().rule
    assert not SIGN.needs_delta
    assert not SIGN.reads_output
    assert Problem(lambda x: x, Settings(), torch.float32).settings.rule is SIGN
