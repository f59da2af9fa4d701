"""What is kept of a network is shared by all calls for it, is bounded, and keeps nothing alive."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from networks import Sinc, tiny_cnn
from tensors import pixels
from torch import Tensor, nn

from sign_ext import SignTransform, iterative_sign, network_state
from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.island import Island
from sign_ext.engine import kept, known_layer
from sign_ext.engine.fused import programs as fused
from sign_ext.engine.fused.step import Step
from sign_ext.engine.kept import NETWORKS_KEPT, kept_for
from sign_ext.engine.witness import CALLS, TURNS
from sign_ext.ops.native import NATIVE

STEP = 1000.0
pytestmark = pytest.mark.skipif(not NATIVE.loaded, reason="auto compiles nothing without operators")


@pytest.fixture
def images(torch_rng: torch.Generator) -> Tensor:
    return pixels(torch_rng, (5, 3, 9, 11))


@pytest.fixture
def model() -> nn.Sequential:
    return tiny_cnn().eval()


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the costly parts of a call were done."""
    counts: Counter[str] = Counter()

    def count(owner: object, name: str, what: str) -> None:
        function = getattr(owner, name)

        def counted(*args: object, **options: object) -> object:
            counts[what] += 1
            return function(*args, **options)

        monkeypatch.setattr(owner, name, counted)

    count(fused, "trace", "recorded")
    count(fused, "build", "built")
    count(fused, "weights_digest", "digest")
    count(network_state, "structure_of", "looked at")
    count(Step, "__init__", "bound")
    count(Step, "pullback_of_ones", "of a step")
    count(known_layer, "backward", "backward")
    return counts


def passes_of(model: nn.Sequential) -> list[int]:
    """The batch sizes of the network's own forward passes from now on."""
    sizes: list[int] = []
    model[0].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    return sizes


def test_a_second_call_of_the_function_compiles_nothing(model, images, done):
    first = iterative_sign(model, images, 3, step_size=STEP)
    assert (done["recorded"], done["built"], done["bound"]) == (1, 1, 1)
    assert torch.equal(iterative_sign(model, images, 3, step_size=STEP), first)
    assert (done["recorded"], done["built"], done["bound"]) == (1, 1, 1)


@pytest.mark.parametrize("function", [True, False], ids=["function", "transform"])
def test_what_a_later_call_does_beside_its_steps(model, images, done, function):
    """One pass of the network over one random image, one look, one digest.

    A backward pass only where the image is new: where it is not, the forward pass says the same.
    """
    sizes = passes_of(model)
    sign = SignTransform(model, 1, step_size=STEP)

    def call() -> None:
        if function:
            iterative_sign(model, images, 1, step_size=STEP)
        else:
            sign.transform(images)

    call()
    for turn in range(TURNS * CALLS + 1):
        sizes.clear()
        done.clear()
        call()
        assert sizes == [1]
        # Where the random image of the call is a new one, autograd's δ there and the step's.
        fresh = turn % (TURNS * CALLS) < TURNS
        expected = Counter({"looked at": 1, "digest": 1})
        assert done == expected + Counter({"of a step": fresh, "backward": fresh})


class ByStrides(nn.Module):
    """Channels-last images make it raise, or double its values."""

    def __init__(self, raises: bool) -> None:
        super().__init__()
        self.raises = raises

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous():
            return x
        if self.raises:
            raise ValueError("contiguous images only")
        return 2 * x


@pytest.mark.parametrize("raises", [True, False], ids=["raises", "doubles"])
def test_where_channels_last_differs_the_images_own_layout_decides(model, images, done, raises):
    model = nn.Sequential(*model, ByStrides(raises=False))  # keeps the places of the layers
    model.insert(0, ByStrides(raises))
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    first = sign.transform(images)
    sizes: list[int] = []
    model[1].register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    for _ in range(2):  # a hook is a change
        assert torch.equal(sign.transform(images), first)
    sizes.clear()
    done.clear()
    assert torch.equal(sign.transform(images), first)
    assert sizes == ([1] if raises else [1, 1])
    assert done["recorded"] == done["built"] == 0


def test_a_later_call_by_autograd_finds_its_layout(model, images):
    sizes = passes_of(model)
    for _ in range(3):
        before = len(sizes)
        iterative_sign(model, images, 2, step_size=STEP, backend="autograd")
    assert sizes[before:] == [1, 5, 5]


@pytest.mark.parametrize(
    "options",
    [
        {"step_size": 7.0},
        {"momentum": 0.5},
        {"clamp": (0, 255)},
        {"snapshots": (1, 3)},
        {"steps": 5},
        {"linearize_at": "input"},
        {"batch_size": 7},
    ],
    ids=str,
)
def test_options_that_decide_no_program_share_it(model, images, done, options):
    iterative_sign(model, images, 3, step_size=STEP)
    result = iterative_sign(model, images, **{"steps": 3, "step_size": STEP, **options})
    assert (done["recorded"], done["bound"]) == (1, 1)
    kept_for(model).clear()
    again = iterative_sign(model, images, **{"steps": 3, "step_size": STEP, **options})
    if isinstance(result, dict):
        assert all(torch.equal(result[k], again[k]) for k in result)
    else:
        assert torch.equal(result, again)


@pytest.mark.parametrize(
    ("change", "recorded", "bound"),
    [
        (lambda m, x: SignTransform(m, 2, layer="5").transform(x), 2, 2),
        (lambda m, x: SignTransform(m, 2).transform(x[:, :, :-1]), 2, 2),
        (lambda m, x: SignTransform(m, 2).transform(x[:3]), 1, 2),
        (lambda m, x: SignTransform(m, 2, precision="bfloat16").transform(x), 1, 2),
        (lambda m, x: SignTransform(m.double(), 2).transform(x.double()), 2, 2),
    ],
    ids=["layer", "image shape", "batch shape", "precision", "dtype"],
)
@pytest.mark.filterwarnings("ignore::sign_ext.errors.NegligibleDeltaWarning")
def test_what_decides_a_program_or_a_step_makes_another(
    torch_rng, images, done, change, recorded, bound
):
    # A pooling takes images of every size to one.
    model = nn.Sequential(
        *tiny_cnn()[:6], nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 3)
    ).eval()
    SignTransform(model, 2).transform(images)
    change(model, images)
    assert (done["recorded"], done["bound"]) == (recorded, bound)


class Tied(nn.Sequential):
    """A network to which nearly everything in it refers back."""

    def __init__(self) -> None:
        super().__init__(*tiny_cnn())
        self.itself = [self]
        self.function = lambda: self
        self[1].weight.register_hook(lambda g: None if self is None else g)
        self[1].register_forward_hook(lambda *_: self.function and None)
        self.held = type("Held", (), {"__slots__": ("model",)})()
        self.held.model = self


@pytest.mark.parametrize("island", [False, True])
@pytest.mark.parametrize("backend", ["fused", "autograd"])
def test_neither_network_nor_images_are_kept_alive(torch_rng, backend, island):
    model = Tied().eval()
    if island:
        model.insert(2, nn.Sequential(nn.LayerNorm((9, 11)), nn.Softmax(1)))
    images = pixels(torch_rng, (2, 3, 9, 11))
    iterative_sign(model, images, 2, step_size=STEP, backend=backend)
    found = [weakref.ref(model), weakref.ref(images), weakref.ref(kept_for(model))]
    weights = weakref.ref(model[1].weight)
    assert id(model) in kept._kept
    address = id(model)
    del model, images
    gc.collect()
    assert [reference() for reference in (*found, weights)] == [None] * 4
    assert address not in kept._kept


def test_a_bounded_number_of_networks_is_kept(images, done):
    models = [tiny_cnn().eval() for _ in range(NETWORKS_KEPT + 1)]
    for model in models:
        iterative_sign(model, images, 1, step_size=STEP)
    done.clear()
    iterative_sign(models[-1], images, 1, step_size=STEP)
    assert not done["recorded"]
    iterative_sign(models[0], images, 1, step_size=STEP)
    assert done["recorded"] == 1


def test_networks_that_take_more_than_the_bound_are_forgotten(images, done, monkeypatch):
    first, second = (tiny_cnn().eval() for _ in range(2))
    for model in (first, second):
        iterative_sign(model, images, 1, step_size=STEP)
    # The weights in float32, for both directions.
    weights = sum(m.weight.numel() for m in first if isinstance(m, nn.Conv2d))
    assert kept_for(first).programs.bytes() > 2 * 4 * weights
    monkeypatch.setattr(kept, "BYTES_KEPT", 100)
    done.clear()
    iterative_sign(second, images, 1, step_size=STEP)
    assert not done["recorded"]
    iterative_sign(first, images, 1, step_size=STEP)
    assert done["recorded"] == 1


def test_reset_forgets_in_all_transforms(model, images, done):
    one, other = SignTransform(model, 1, step_size=STEP), SignTransform(model, 2, step_size=STEP)
    one.transform(images)
    other.transform(images)
    assert done["recorded"] == 1
    one.reset()
    other.transform(images)
    assert done["recorded"] == 2
    iterative_sign(model, images, 1, step_size=STEP)
    assert done["recorded"] == 3


def test_a_network_that_cannot_be_compiled_is_recorded_once(images, done):
    model = nn.Sequential(nn.Flatten(), nn.Linear(297, 5), Sinc(), nn.Linear(5, 2)).eval()
    for _ in range(3):
        iterative_sign(model, images, 1, step_size=STEP, strict=True)
    assert SignTransform(model, 1, strict=True).explain(images).backend == "autograd"
    assert (done["recorded"], done["bound"]) == (1, 0)


def with_an_island() -> nn.Sequential:
    """A network whose sinc has no rule; the convolutions before it are most of a step."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 40, 3, padding=1), nn.Conv2d(40, 4, 3), Sinc(), nn.Flatten(),
        nn.Linear(4 * 7 * 9, 3),
    ).eval()  # fmt: skip


def mostly_islands() -> nn.Sequential:
    torch.manual_seed(0)
    layers = nn.LayerNorm((3, 9, 11)), Sinc(), nn.Flatten(), nn.Linear(297, 2)
    return nn.Sequential(*layers).eval()


def test_a_network_of_islands_is_left_to_autograd_at_no_cost_to_later_calls(images, done):
    model = mostly_islands()
    sizes = passes_of(model)
    expected = iterative_sign(model, images, 2, step_size=STEP, backend="autograd")
    first = iterative_sign(model, images, 2, step_size=STEP)
    assert (done["recorded"], done["built"], done["bound"]) == (1, 1, 0)
    sizes.clear()
    assert torch.equal(iterative_sign(model, images, 2, step_size=STEP), expected)
    assert torch.equal(first, expected)
    assert (done["recorded"], done["built"], done["bound"], sizes) == (1, 1, 0, [1, 5, 5])
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    assert (sign.transform(images) - expected).norm() < 1e-4 * (expected - images).norm()
    # What has been compiled is still not for `auto`.
    assert "operations without a rule hold" in SignTransform(model, 2).explain(images).reason


@pytest.mark.parametrize("strict_first", [False, True])
def test_a_program_with_islands_is_not_for_a_strict_transform(images, done, strict_first):
    model = with_an_island()
    for strict in (strict_first, not strict_first, strict_first, not strict_first):
        sign = SignTransform(model, 1, step_size=STEP, strict=strict)
        found = sign.explain(images)
        assert found.backend == ("autograd" if strict else "fused")
        assert ("aten.sinc" in found.reason) == strict
        sign.transform(images)
    assert (done["recorded"], done["bound"]) == (2, 1)


def test_islands_follow_weights_that_change_in_place(images, done):
    model = mostly_islands()
    sign = SignTransform(model, 2, step_size=STEP, backend="fused")
    sign.transform(images)
    with torch.no_grad():
        model[0].weight.uniform_(0.5, 2)
    changed = sign.transform(images)
    assert (done["recorded"], done["built"]) == (1, 2)
    expected = iterative_sign(model, images, 2, step_size=STEP, backend="autograd")
    assert (changed - expected).norm() < 1e-4 * (expected - images).norm()


def test_an_islands_weights_are_held_once(images):
    model = mostly_islands()
    step = SignTransform(model, 2, step_size=STEP, backend="fused").step(images)
    (place,) = (i for i, op in enumerate(step.program.ops) if isinstance(op, Island))
    assert all(weight.is_meta for weight in step.program.ops[place].weights)
    # The network's own memory.
    addresses = {weight.data_ptr() for weight in step.prepared[place]}
    assert addresses == {model[0].weight.data_ptr(), model[0].bias.data_ptr()}


def test_threads_share_one_program(model, images, done):
    expected = iterative_sign(model, images, 3, step_size=STEP)
    kept_for(model).clear()
    done.clear()

    def call(_: int) -> Tensor:
        return iterative_sign(model, images, 3, step_size=STEP)

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(call, range(12)))
    assert all(torch.equal(result, expected) for result in results)
    assert done["recorded"] == 1


def test_weights_that_change_in_place_are_followed_without_a_recording(model, images, done):
    iterative_sign(model, images, 2, step_size=STEP)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    changed = iterative_sign(model, images, 2, step_size=STEP)
    assert (done["recorded"], done["built"]) == (1, 2)
    kept_for(model).clear()
    assert torch.equal(iterative_sign(model, images, 2, step_size=STEP), changed)


def test_a_network_for_one_image_at_a_time(torch_rng, done):
    """The random image cannot go with the caller's."""

    class One(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            assert len(x) == 1
            return super().forward(x)

    model = One(*tiny_cnn()).eval()
    image = pixels(torch_rng, (1, 3, 9, 11))
    plain = nn.Sequential(*model).eval()
    expected = iterative_sign(plain, image, 2, step_size=STEP, backend="autograd")
    for _ in range(3):
        got = iterative_sign(model, image, 2, step_size=STEP, batch_size=1)
        assert (got - expected).norm() < 1e-4 * (expected - image).norm()


def test_weights_that_a_step_has_prepared_are_not_kept_a_second_time(model, images, monkeypatch):
    folded: list[weakref.ref[Tensor]] = []
    build = fused.build

    def watched(*args: object, **options: object) -> object:
        program = build(*args, **options)
        weights = [op.weight for op in program.ops if isinstance(op, Convolution)]
        folded.extend(weakref.ref(weight) for weight in weights)
        return program

    monkeypatch.setattr(fused, "build", watched)
    sign = SignTransform(model, 2, step_size=STEP, batch_size=3)
    expected = sign.transform(images)  # of 3 images and of 2: the program is put together twice
    gc.collect()
    assert len(folded) == 2 * 2
    # The first convolution's stays: its update needs it in another order.
    assert [weight() is None for weight in folded[1::2]] == [True, True]
    program = sign.program(images)
    x = images.clone().requires_grad_()
    phi = nn.Sequential(*list(model)[:-1])
    (delta,) = torch.autograd.grad(phi(x).sum(), x)
    assert (program.pullback_of_ones(images) - delta).norm() < 1e-5 * delta.norm()
    assert torch.equal(sign.transform(images), expected)
