"""Networks with further inputs: `model_kwargs`, split along the batch with the images."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict

import pytest
import torch
from networks import tiny_cnn
from torch import Tensor, nn

from sign_ext import (
    BackendError,
    Shared,
    SignTransform,
    iterative_sign,
    jacobian,
    pullback_of_ones,
    pushforward,
)
from sign_ext.model_inputs import ModelInputs

K, STEP = 3, 20000.0


class Conditioned(nn.Module):
    """Convolutions whose channels are scaled by each image's metadata, as in FiLM."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.film = nn.Linear(2, 4)
        self.embed = nn.Embedding(6, 4)
        self.classifier = nn.Linear(4, 3)

    def features(self, images, meta=None, site=None, table=None, gain=1.0, *, square=False):
        x = (self.conv(images / 255)).relu()
        if meta is not None:
            x = x * self.film(meta)[:, :, None, None]
        if site is not None:
            x = x + self.embed(site)[:, :, None, None] * x
        if table is not None:
            x = torch.einsum("nchw,cd->ndhw", x, table)
        x = x.square() if square else x
        return gain * x.mean((2, 3))

    def forward(self, images, meta=None, site=None, table=None, gain=1.0, *, square=False):
        return self.classifier(self.features(images, meta, site, table, gain, square=square))


@pytest.fixture
def net():
    return Conditioned().eval()


@pytest.fixture
def meta(torch_rng):
    return torch.rand(5, 2, generator=torch_rng) * 2 - 1


def one_by_one(net, images: Tensor, kwargs_of, steps=K, step=STEP) -> Tensor:
    """A float64 loop over single images; `kwargs_of(i)` are image i's further inputs."""
    exact = copy.deepcopy(net).double()
    done = []
    for i, image in enumerate(images.double()):
        p = image[None]
        for _ in range(steps):
            p = p.detach().requires_grad_()
            phi = exact.features(p, **kwargs_of(i))
            (delta,) = torch.autograd.grad(phi.sum(), p)
            p = p + step * delta
        done.append(p.detach())
    return torch.cat(done)


def close(got: Tensor, expected: Tensor, images: Tensor) -> None:
    moved = (expected - images.double()).norm()
    assert moved > 1
    assert (got.double() - expected).norm() / moved < 1e-4


@pytest.mark.parametrize("batch_size", [1, 2, 5, None])
def test_tensors_are_split_with_the_images(net, images, meta, batch_size):
    site = torch.tensor([5, 0, 2, 2, 1])
    expected = one_by_one(
        net, images, lambda i: {"meta": meta[i : i + 1].double(), "site": site[i : i + 1]}
    )
    kwargs = {"meta": meta, "site": site}
    got = iterative_sign(net, images, K, step_size=STEP, batch_size=batch_size, model_kwargs=kwargs)
    close(got, expected, images)


def test_other_values_in_the_next_call_are_seen(net, images, meta):
    sign = SignTransform(net, K, step_size=STEP)
    for values in (meta, -meta, meta.flip(0)):
        expected = one_by_one(net, images, lambda i, v=values: {"meta": v[i : i + 1].double()})
        close(sign.transform(images, model_kwargs={"meta": values}), expected, images)
    meta.mul_(3)  # in place, too
    expected = one_by_one(net, images, lambda i: {"meta": meta[i : i + 1].double()})
    close(sign.transform(images, model_kwargs={"meta": meta}), expected, images)
    close(sign.transform(images), one_by_one(net, images, lambda _: {}), images)


def test_what_belongs_to_all_images_is_passed_whole(net, images, torch_rng):
    table = torch.randn(4, 4, generator=torch_rng)
    expected = one_by_one(net, images, lambda _: {"table": table.double()})
    options = {"step_size": STEP, "batch_size": 2}
    close(
        iterative_sign(net, images, K, **options, model_kwargs={"table": table}), expected, images
    )
    four = images[:4]  # as many as the table has rows
    with pytest.raises(ValueError, match=r"\['table'\] has as many rows as .* \(4\).*Shared"):
        iterative_sign(net, four, K, **options, model_kwargs={"table": table})
    got = iterative_sign(net, four, K, **options, model_kwargs={"table": Shared(table)})
    close(got, expected[:4], four)


def test_a_tensor_for_all_images_is_found_out_although_the_first_is_black(net, images, torch_rng):
    with torch.no_grad():
        net.conv.bias.zero_()
    images[0] = 0
    table = torch.randn(4, 4, generator=torch_rng)
    with pytest.raises(ValueError, match="Shared"):
        iterative_sign(net, images[:4], K, model_kwargs={"table": table})


def test_a_network_for_nonnegative_pixels_only(images, meta):
    """What is asked of it beside the caller's images changes nothing."""

    class Root(Conditioned):
        def features(self, images, meta=None):
            x = (images + 1).sqrt().mean((2, 3))
            return x if meta is None else x * (1 + meta.sum(1, keepdim=True) / 4)

        def forward(self, images, meta=None):
            return self.head(self.features(images, meta))

    net = Root()
    net.head = nn.Linear(3, 2)
    expected = one_by_one(net, images, lambda i: {"meta": meta[i : i + 1].double()})
    got = iterative_sign(net, images, K, step_size=STEP, model_kwargs={"meta": meta})
    close(got, expected, images)


def test_a_tensor_for_all_images_that_cannot_be_split(images, torch_rng):
    class Attending(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, (9, 2), stride=(9, 2))
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.classifier = nn.Linear(8, 3)

        def features(self, x, mask=None, skip=None, context=None):
            x = self.embed(x / 255).flatten(2).transpose(1, 2)  # (N, 5, 8)
            keys = x if context is None else torch.cat([x, context], 1)
            x, _ = self.attention(x, keys, keys, key_padding_mask=skip, attn_mask=mask)
            return x.square().sum(1)

        def forward(self, x, mask=None, skip=None, context=None):
            return self.classifier(self.features(x, mask, skip, context))

    net = Attending()
    mask = torch.randn(5, 5, generator=torch_rng)  # of tokens, as many as there are images
    expected = one_by_one(net, images, lambda _: {"mask": mask.double()})
    options = {"step_size": STEP, "batch_size": 3}
    with pytest.raises(ValueError, match=r"failed on one image .*\['mask'\] has a row.*Shared"):
        iterative_sign(net, images, K, **options, model_kwargs={"mask": mask})
    got = iterative_sign(net, images, K, **options, model_kwargs={"mask": Shared(mask)})
    close(got, expected, images)
    skip = torch.rand(5, 5, generator=torch_rng) < 0.4
    skip[:, 0] = False
    expected = one_by_one(net, images, lambda i: {"skip": skip[i : i + 1]})
    close(iterative_sign(net, images, K, **options, model_kwargs={"skip": skip}), expected, images)
    context = torch.randn(5, 3, 8, generator=torch_rng)
    expected = one_by_one(net, images, lambda i: {"context": context[i : i + 1].double()})
    got = iterative_sign(net, images, K, **options, model_kwargs={"context": context})
    close(got, expected, images)


def test_one_image_and_no_image(net, images, meta):
    one, kwargs = images[:1], {"meta": meta[:1]}
    expected = one_by_one(net, one, lambda _: {"meta": meta[:1].double()})
    close(iterative_sign(net, one, K, step_size=STEP, model_kwargs=kwargs), expected, one)
    assert iterative_sign(net, images[:0], K, model_kwargs={"meta": meta[:0]}).shape[0] == 0


def test_nested_inputs_of_any_mapping_and_sequence(images, meta, torch_rng):
    class Nested(Conditioned):
        def forward(self, images, extra):
            site = extra["pair"][1][0]
            return super().forward(images, extra["meta"], site, *extra["rest"], gain=extra["gain"])

    net = Nested()
    table = torch.randn(4, 4, generator=torch_rng)
    site = torch.tensor([3, 0, 1, 1, 2])
    extra = OrderedDict(meta=meta, pair=(None, [site]), rest=[table], gain=2.0)
    expected = one_by_one(
        net,
        images,
        lambda i: {
            "meta": meta[i : i + 1].double(),
            "site": site[i : i + 1],
            "table": table.double(),
            "gain": 2.0,
        },
    )
    got = iterative_sign(
        net, images, K, step_size=STEP, batch_size=2, model_kwargs={"extra": extra}
    )
    close(got, expected, images)


def test_constants_are_compiled_and_their_changes_noticed(net, images):
    sign = SignTransform(net, K, step_size=STEP, backend="fused", batch_size=4)
    for constants in ({"gain": 2.0}, {"gain": 0.5}, {"gain": 2.0}, {"gain": -1}, {}):
        expected = one_by_one(net, images, lambda _, c=constants: c)
        close(sign.transform(images, model_kwargs=constants), expected, images)
        assert sign.explain(images, model_kwargs=constants).backend == "fused"
    assert len(list(sign._with_inputs)) == 3
    auto = SignTransform(net, K, step_size=STEP)
    for constants in ({"square": True}, {"square": False}):
        expected = one_by_one(net, images, lambda _, c=constants: c)
        close(auto.transform(images, model_kwargs=constants), expected, images)


def test_micro_batches_of_a_compiled_step(net, images, monkeypatch):
    monkeypatch.setattr("sign_ext.engine.fused.tuning_plan.MICRO_BATCH_BYTES", 1)
    monkeypatch.setattr("sign_ext.engine.fused.tuning_plan.CALL_SECONDS", 0.0)
    monkeypatch.setattr("sign_ext.engine.fused.tuning_plan.WEIGHT_BYTES_A_SECOND", math.inf)
    sign = SignTransform(net, K, step_size=STEP, backend="fused")
    constants = {"gain": 3.0}
    assert sign.step(images, model_kwargs=constants).micro_batch == 1
    expected = one_by_one(net, images, lambda _: constants)
    close(sign.transform(images, model_kwargs=constants), expected, images)


def test_why_it_is_autograd_is_said(net, images, meta):
    sign = SignTransform(net, K)
    answer = sign.explain(images, model_kwargs={"meta": meta})
    assert answer.backend == "autograd"
    assert "model_kwargs['meta'] is data of this call" in answer.reason
    answer = sign.explain(images, model_kwargs={"gain": _Number()})
    assert (answer.backend, "whose changes" in answer.reason) == ("autograd", True)
    assert sign.source_layer(images, model_kwargs={"meta": meta}).name == "classifier"
    fused = SignTransform(net, K, backend="fused")
    for ask in (fused.transform, fused.explain, fused.program, fused.step, fused.on_chip):
        with pytest.raises(BackendError, match=r"autograd.*|model_kwargs\['meta'\]"):
            ask(images, model_kwargs={"meta": meta})


class _Number:
    def __mul__(self, other):
        return 3 * other


def test_mutable_objects_are_read_in_every_call(net, images):
    gain = _Number()
    sign = SignTransform(net, K, step_size=STEP)
    close(
        sign.transform(images, model_kwargs={"gain": gain}),
        one_by_one(net, images, lambda _: {"gain": 3.0}),
        images,
    )


WRONG = [
    ({"meta": torch.rand(4, 2)}, ValueError, r"model_kwargs\['meta'\] has 4 rows for 5 images"),
    ({"site": torch.tensor([1, 2])}, ValueError, r"model_kwargs\['site'\] has 2 rows for 5"),
    ({"table": torch.eye(3)}, ValueError, r"model_kwargs\['table'\] has 3 rows for 5 images"),
    ({"meta": torch.rand(5, 2).numpy()}, TypeError, r"\['meta'\] is a ndarray with a row for"),
    ({"mate": torch.rand(5, 2)}, TypeError, r"takes \(images, meta=None.*argument 'mate'"),
    ({"images": torch.rand(5, 2)}, TypeError, "multiple values for argument 'images'"),
    ({3: 4}, TypeError, "names as keys, got 3"),
    ([3], TypeError, "model_kwargs must be a dict .* got list"),
]


@pytest.mark.parametrize(("kwargs", "error", "message"), WRONG)
def test_wrong_inputs_are_refused(net, images, kwargs, error, message):
    sign = SignTransform(net, K)
    for ask in (sign.transform, sign.explain, lambda p, **k: pullback_of_ones(net, p, **k)):
        with pytest.raises(error, match=message):
            ask(images, model_kwargs=kwargs)


def test_an_input_that_is_missing_is_named(images):
    class Needs(Conditioned):
        def forward(self, images, meta):
            return super().forward(images, meta)

    with pytest.raises(TypeError, match=r"Needs.forward .*'meta'.*model_kwargs="):
        iterative_sign(Needs(), images, K)


def test_a_list_with_an_item_for_each_image_is_refused(net, images):
    class Listed(Conditioned):
        def forward(self, images, ages):
            return super().forward(images, torch.tensor(ages)[:, None].expand(-1, 2) / 10)

    with pytest.raises(ValueError, match=r"5 rows for one image: .*must be a tensor"):
        iterative_sign(Listed(), images, K, model_kwargs={"ages": [1.0, 2.0, 3.0, 4.0, 5.0]})


def test_the_callers_modes_and_tensors_are_left_alone(net, images, meta):
    expected = one_by_one(net, images, lambda i: {"meta": meta[i : i + 1].double()})
    given = meta.clone().requires_grad_()
    close(
        iterative_sign(net, images, K, step_size=STEP, model_kwargs={"meta": given}),
        expected,
        images,
    )
    assert given.grad is None
    assert given.requires_grad
    assert torch.equal(given, meta)
    with torch.inference_mode():
        made_here = meta.clone()
        got = iterative_sign(net, images, K, step_size=STEP, model_kwargs={"meta": made_here})
    close(got, expected, images)


@pytest.mark.parametrize("options", [{"layer": "conv"}, {"linearize_at": "input"}])
def test_with_other_options(net, images, meta, options):
    exact = copy.deepcopy(net).double()
    p = images.double()
    if "layer" in options:  # nothing of meta comes before it
        (delta,) = torch.autograd.grad(exact.conv((x := p.clone().requires_grad_()) / 255).sum(), x)
    else:
        x = p.clone().requires_grad_()
        (delta,) = torch.autograd.grad(exact.features(x, meta.double()).sum(), x)
    got = iterative_sign(
        net, images, K, step_size=STEP, batch_size=2, model_kwargs={"meta": meta}, **options
    )
    close(got, p + K * STEP * delta, images)


def test_half_and_double_networks(net, images, meta):
    expected = one_by_one(net, images, lambda i: {"meta": meta[i : i + 1].double()})
    got = iterative_sign(
        copy.deepcopy(net).double(), images, K, step_size=STEP, model_kwargs={"meta": meta.double()}
    )
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, expected)


def test_section_2_1_and_calibration(net, images, meta, torch_rng):
    exact = copy.deepcopy(net).double()
    x = images.double().requires_grad_()
    rows = [exact.features(x[i : i + 1], meta[i : i + 1].double())[0] for i in range(5)]
    slopes = torch.stack(
        [
            torch.stack([torch.autograd.grad(row[a], x, retain_graph=True)[0][i] for a in range(4)])
            for i, row in enumerate(rows)
        ]
    )
    kwargs = {"model_kwargs": {"meta": meta}}
    near = {"rtol": 1e-4, "atol": 1e-8}
    torch.testing.assert_close(jacobian(net, images, **kwargs).double(), slopes, **near)
    torch.testing.assert_close(
        pullback_of_ones(net, images, **kwargs).double(), slopes.sum(1), **near
    )
    tangents = torch.randn(images.shape, generator=torch_rng)
    pushed = torch.einsum("nachw,nchw->na", slopes, tangents.double())
    got = pushforward(net, images, tangents, **kwargs).double()
    torch.testing.assert_close(got, pushed, rtol=1e-4, atol=1e-5)

    sign = SignTransform(net, batch_size=2)
    table = sign.calibrate(images, torch.zeros(5).long(), steps=2, **kwargs)
    row = next(row for row in table.rows if row.step_size == table.proposed)
    moved = one_by_one(
        net, images, lambda i: {"meta": meta[i : i + 1].double()}, steps=2, step=table.proposed
    )
    assert row.rms == pytest.approx(float((moved - images).square().mean().sqrt()), rel=1e-3)


def test_a_batch_as_long_as_a_shared_tensor(net, images, torch_rng):
    """calibrate takes the images in parts, one of which has as many as the table has rows."""
    table = torch.randn(4, 4, generator=torch_rng)
    sign = SignTransform(net, batch_size=4)
    calibrated = sign.calibrate(images, steps=1, step_sizes=None, model_kwargs={"table": table})
    assert calibrated.images == 5


def test_a_network_without_further_inputs(images):
    model = tiny_cnn().eval()
    assert torch.equal(
        iterative_sign(model, images, 2, model_kwargs={}), iterative_sign(model, images, 2)
    )


def test_parts_of_inputs():
    meta, pair = torch.arange(6).reshape(3, 2), (torch.arange(3), torch.tensor(7.0))
    inputs = ModelInputs.of({"meta": meta, "pair": pair, "shared": Shared(meta), "k": 3}, 3)
    for rows in (slice(0, 1), slice(1, 3), [2, 2]):
        part = inputs[rows]
        assert torch.equal(part["meta"], meta[rows])
        assert torch.equal(part["pair"][0], pair[0][rows])
        assert part["pair"][1] is pair[1]
        assert (part["shared"] is meta, part["k"]) == (True, 3)
    again = ModelInputs.of(inputs.given(slice(0, 2)), 2)
    assert torch.equal(again[:1]["meta"], meta[:1])
    assert again[:1]["pair"][1] is pair[1]
    assert ModelInputs.of({"k": 1}, 3).key != ModelInputs.of({"k": True}, 3).key
    assert ModelInputs.of({"k": 1}, 3).key == ModelInputs.of({"k": 1}, 9).key
    assert ModelInputs.of({"k": [1, 2]}, 3).key != ModelInputs.of({"k": (1, 2)}, 3).key
