"""Odd networks that plain PyTorch runs: each with Φ written by hand, for conformance tests.

`ODD` holds a function for each; it returns the network, and Φ as a module of its own that shares
its weights. `REFUSED` holds networks where Φ has to be named, or has no gradient, with the error
that says so. Images are (N, 3, 6, 5).
"""

from __future__ import annotations

import collections
import copy
import dataclasses
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
import torch.nn.utils.prune
from networks import Scale
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

HEIGHT, WIDTH = 6, 5
Build = Callable[[], tuple[nn.Module, nn.Module]]
ODD: dict[str, Build] = {}
REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {}


def odd(build: Build) -> Build:
    """Register an odd network under its function's name."""
    ODD[build.__name__] = build
    return build


def refused(message: str) -> Callable:
    """Register a network for which SIGN cannot know Φ, and what the error says."""

    def register(build: Callable[[], nn.Module]) -> Callable:
        REFUSED[build.__name__] = build, message
        return build

    return register


class Call(nn.Module):
    """A function of x and modules as a module, whose copies in float64 compute in float64."""

    def __init__(self, function: Callable, *modules: nn.Module):
        super().__init__()
        self.function, self.parts = function, nn.ModuleList(modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.parts)


class Headed(nn.Module):
    """A body, a head, and what happens behind it."""

    def __init__(self, body: nn.Module, head: nn.Module, behind: Callable | None = None):
        super().__init__()
        self.body, self.head, self.behind = body, head, behind
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.head(self.body(x))
        return logits if self.behind is None else self.behind(self, logits)


def curved(x: Tensor) -> Tensor:
    return torch.tanh(x / 255)


def convolutions(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(Scale(), nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), *more)


def features() -> nn.Sequential:
    """(N, 3, 6, 5) → (N, 8)."""
    return nn.Sequential(
        Scale(), nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 8), nn.Tanh(),
    )  # fmt: skip


def headed(body: nn.Module, width: int, behind: Callable | None = None):
    """A body with a linear head, and Φ: the body."""
    return Headed(body, nn.Linear(width, 3), behind), body


# The layout of the iterate does not depend on the types of modules.


class FunctionalConvolution(nn.Module):
    def __init__(self, inner: int = 4):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inner, 3, 3, 3) * 0.3)
        self.bias = nn.Parameter(torch.randn(inner))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(F.conv2d(x / 255, self.weight, self.bias, padding=1)).flatten(1)


@odd
def functional_convolution():
    return headed(FunctionalConvolution(), 120)


@odd
def functional_convolution_then_pooling():
    class Pooled(FunctionalConvolution):
        def forward(self, x):
            y = F.relu(F.conv2d(x / 255, self.weight, self.bias, stride=2))
            return F.adaptive_avg_pool2d(y, 1).flatten(1)

    return headed(Pooled(), 4)


@odd
def standardized_convolution():
    class Standardized(FunctionalConvolution):
        def forward(self, x):
            mean = self.weight.mean((1, 2, 3), keepdim=True)
            return F.conv2d(x / 255, self.weight - mean, self.bias).sigmoid().view(len(x), -1)

    return headed(Standardized(), 48)


@odd
def fixed_filter_in_a_buffer():
    class Filter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("kernel", torch.randn(1, 1, 3, 3))

        def forward(self, x):
            edges = F.conv2d(x, self.kernel.expand(3, 1, 3, 3), groups=3, padding=1)
            return (edges / 100).square().flatten(1)

    return headed(Filter(), 90)


@odd
def perceptron():
    return headed(nn.Sequential(Scale(), nn.Flatten(), nn.Linear(90, 7), nn.Tanh()), 7)


@odd
def perceptron_by_view():
    body = Call(lambda x, linear: torch.tanh(linear(x.view(x.size(0), -1) / 255)), nn.Linear(90, 7))
    return headed(body, 7)


@odd
def pooling_only():
    return headed(Call(lambda x: F.avg_pool2d(x.square() / 255, 2).flatten(1)), 18)


@odd
def max_pooling_by_view():
    return headed(Call(lambda x: F.max_pool2d(x, 2).view(len(x), 18)), 18)


@odd
def view_before_a_convolution():
    def forward(x, conv):
        return torch.tanh(conv(x.view(x.size(0), 9, 2, 5) / 255)).flatten(1)

    return headed(Call(forward, nn.Conv2d(9, 4, 1)), 40)


@odd
def strides_written_by_hand():
    """In another layout the strides would silently take other pixels."""

    def forward(x, conv):
        x = x.contiguous() if x.is_contiguous(memory_format=torch.contiguous_format) else x
        windows = x.as_strided((len(x), 3, 5, 4, 2, 2), (90, 30, 5, 1, 5, 1))
        return torch.tanh(conv(windows.amax((-1, -2)) / 255)).flatten(1)

    return headed(Call(forward, nn.Conv2d(3, 4, 3)), 24)


@odd
def patches_by_einsum():
    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 2, 5, 8) * 0.1)

        def forward(self, x):
            patches = x.view(-1, 3, 3, 2, 5) / 255
            return torch.einsum("ncgij,cijd->ngd", patches, self.weight).tanh().mean(1)

    return headed(Patches(), 8)


@odd
def unfolded():
    return headed(
        Call(
            lambda x, linear: torch.tanh(linear(F.unfold(x / 255, 2))).flatten(1), nn.Linear(20, 3)
        ),
        36,
    )


@odd
def volumes():
    body = Call(
        lambda x, conv: F.silu(conv(x.unsqueeze(1) / 255)).view(len(x), -1), nn.Conv3d(1, 2, 3)
    )
    return headed(body, 24)


# .view behind an operation that the compiler lacks.


def then_view(module: nn.Module, width: int, first: nn.Module | None = None):
    first = first or nn.Conv2d(3, 4, 3, padding=1)
    body = Call(
        lambda x, first, odd: torch.tanh(odd(first(curved(x))).view(len(x), -1)), first, module
    )
    return headed(body, width)


ODD.update(
    prelu_then_view=lambda: then_view(nn.PReLU(4), 120),
    group_norm_then_view=lambda: then_view(nn.GroupNorm(2, 4), 120),
    layer_norm_then_view=lambda: then_view(nn.LayerNorm([4, 6, 5]), 120),
    instance_norm_then_view=lambda: then_view(nn.InstanceNorm2d(4, affine=True), 120),
    local_response_then_view=lambda: then_view(nn.LocalResponseNorm(2), 120),
    transposed_then_view=lambda: then_view(nn.ConvTranspose2d(4, 2, 3), 112),
    shuffled_then_view=lambda: then_view(nn.PixelShuffle(2), 120),
    upsampled_then_view=lambda: then_view(nn.Upsample(scale_factor=2, mode="bilinear"), 480),
    reflected_then_view=lambda: then_view(nn.ReflectionPad2d(1), 224),
    circular_then_view=lambda: then_view(nn.Conv2d(4, 2, 3, 1, 1, padding_mode="circular"), 60),
    norm_pool_then_view=lambda: then_view(nn.LPPool2d(2, 2), 24),
    gated_then_view=lambda: then_view(nn.GLU(1), 60),
    channel_softmax_then_view=lambda: then_view(nn.Softmax2d(), 120),
    fractional_then_view=lambda: then_view(nn.AdaptiveMaxPool2d((2, 3)), 24),
    dilated_then_view=lambda: then_view(nn.Conv2d(4, 4, 3, dilation=2, groups=2), 8),
)  # fmt: skip


@odd
def prelu_then_convolution():
    return headed(convolutions(nn.PReLU(4), nn.Conv2d(4, 2, 2), nn.Tanh(), nn.Flatten()), 40)


@odd
def half_network_then_view():
    model, body = then_view(nn.Tanh(), 120)
    return model.half(), body


@odd
def bfloat16_network_then_view():
    model, body = then_view(nn.PReLU(4), 120)
    return model.bfloat16(), body


@odd
def double_network_then_view():
    model, body = then_view(nn.GroupNorm(2, 4), 120)
    return model.double(), body


# Ways to write a forward pass.


@odd
def scripted_body():
    body = features()
    return headed(torch.jit.script(body), 8)[0], body


@odd
def traced_body():
    body = features().eval()
    return headed(torch.jit.trace(body, torch.rand(2, 3, HEIGHT, WIDTH)), 8)[0], body


@odd
def traced_body_of_the_batch():
    body = Call(lambda x, b: b(x).view(4, 8), features()).eval()
    return headed(torch.jit.trace(body, torch.rand(4, 3, HEIGHT, WIDTH)), 8)[0], body


@odd
def exported_body():
    body = features().eval()
    program = torch.export.export(body, (torch.rand(4, 3, HEIGHT, WIDTH),))
    return headed(program.module(), 8)[0], body


@odd
def exported_body_of_any_batch():
    body = features().eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(
        body, (torch.rand(4, 3, HEIGHT, WIDTH),), dynamic_shapes=({0: batch},)
    )
    return headed(program.module(), 8)[0], body


@odd
def exported_and_unflattened():
    body = features().eval()
    whole = Headed(body, nn.Linear(8, 3)).eval()
    program = torch.export.export(whole, (torch.rand(4, 3, HEIGHT, WIDTH),))
    return torch.export.unflatten(program), body


def checkpointed(reentrant: bool):
    first, second = convolutions(), nn.Sequential(nn.Flatten(), nn.Linear(120, 8), nn.Tanh())

    def forward(x, first, second):
        return checkpoint(
            second, checkpoint(first, x, use_reentrant=reentrant), use_reentrant=reentrant
        )

    return headed(Call(forward, first, second), 8)[0], nn.Sequential(first, second)


ODD.update(
    checkpoint_without=lambda: checkpointed(False),
)


@dataclasses.dataclass
class Output:
    logits: Tensor
    features: Tensor | None = None


class Plain:
    def __init__(self, logits):
        self.logits = logits


Named = collections.namedtuple("Named", "loss logits")


class Slotted:
    __slots__ = ("logits",)

    def __init__(self, logits):
        self.logits = logits


ODD.update(
    output_dataclass=lambda: headed(features(), 8, lambda _, y: Output(y)),
    output_dataclass_with_features=lambda: headed(features(), 8, lambda _, y: Output(y, y * 2)),
    output_object=lambda: headed(features(), 8, lambda _, y: Plain(y)),
    output_namespace=lambda: headed(features(), 8, lambda _, y: types.SimpleNamespace(out=[y])),
    output_named_tuple=lambda: headed(features(), 8, lambda _, y: Named(None, y)),
    output_slots=lambda: headed(features(), 8, lambda _, y: Slotted(y)),
    output_nested=lambda: headed(features(), 8, lambda _, y: {"a": [Output(y), "text", 3]}),
    scaled_logits=lambda: headed(features(), 8, lambda m, y: y * m.logit_scale.exp()),
    tempered_logits=lambda: headed(features(), 8, lambda _, y: y / 0.07),
    log_probabilities=lambda: headed(features(), 8, lambda _, y: F.log_softmax(y, 1)),
    first_logit=lambda: headed(features(), 8, lambda _, y: y[:, 0]),
    sigmoid_logits=lambda: headed(features(), 8, lambda _, y: y.sigmoid().squeeze(-1)),
    capped_logits=lambda: headed(features(), 8, lambda _, y: 30 * torch.tanh(y / 30)),
)  # fmt: skip


class ScaleModule(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, x):
        return x * self.scale


@odd
def head_and_scale_module():
    body = features()
    return nn.Sequential(body, nn.Linear(8, 3), ScaleModule()), body


@odd
def head_and_frozen_scale():
    body = features()
    scale = ScaleModule()
    scale.requires_grad_(False)
    return nn.Sequential(body, nn.Linear(8, 3), nn.Dropout(), scale), body


class LoRA(nn.Module):
    def __init__(self, base: nn.Linear, rank: int = 2):
        super().__init__()
        self.base = base
        self.lora_a = nn.Linear(base.in_features, rank, bias=False)
        self.lora_b = nn.Linear(rank, base.out_features, bias=False)
        self.dropout, self.scaling = nn.Dropout(0.1), {"default": 0.5}

    def forward(self, x):
        return self.base(x) + self.lora_b(self.lora_a(self.dropout(x))) * self.scaling["default"]


@odd
def lora_head():
    body = features()
    return nn.Sequential(body, LoRA(nn.Linear(8, 3))), body


@odd
def lora_everywhere():
    body = nn.Sequential(Scale(), nn.Flatten(), LoRA(nn.Linear(90, 8)), nn.Tanh())
    return nn.Sequential(body, LoRA(nn.Linear(8, 3))), body


@odd
def parametrized_head():
    body = features()
    return nn.Sequential(body, nn.utils.parametrizations.weight_norm(nn.Linear(8, 3))), body


@odd
def spectral_head():
    body = features()
    return nn.Sequential(body, nn.utils.parametrizations.spectral_norm(nn.Linear(8, 3))), body


@odd
def pruned_body():
    body = features()
    nn.utils.prune.random_unstructured(body[1], "weight", amount=0.3)
    model = nn.Sequential(body, nn.Linear(8, 3))
    return model, features_of_pruned(body)


def features_of_pruned(body: nn.Sequential) -> nn.Module:
    plain = features()
    plain.load_state_dict(
        {
            "1.weight": body[1].weight_orig * body[1].weight_mask,
            "1.bias": body[1].bias,
            "5.weight": body[5].weight,
            "5.bias": body[5].bias,
        }
    )
    return plain


@odd
def lazy_body():
    body = nn.Sequential(
        Scale(), nn.LazyConv2d(4, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(8), nn.Tanh()
    )
    body(torch.rand(1, 3, HEIGHT, WIDTH))
    return headed(body, 8)


@odd
def tied_weights():
    first, second = nn.Linear(90, 90), nn.Linear(90, 90)
    second.weight = first.weight
    return headed(nn.Sequential(Scale(), nn.Flatten(), first, nn.Tanh(), second, nn.Tanh()), 90)


@odd
def transformer():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 2, stride=2)
            self.cls = nn.Parameter(torch.randn(1, 1, 8))
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
            self.encoder = nn.TransformerEncoder(self.layer, 2, enable_nested_tensor=False)

        def forward(self, x):
            tokens = self.embed(x / 255).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.cls.expand(len(x), -1, -1), tokens], 1)
            return torch.tanh(self.encoder(tokens)[:, 0])

    return headed(Tokens(), 8)


@odd
def recurrent():
    rnn = nn.LSTM(15, 6, batch_first=True)
    body = Call(
        lambda x, rnn: rnn(x.permute(0, 2, 1, 3).reshape(len(x), 6, 15) / 255)[0][:, -1], rnn
    )
    return headed(body, 6)


@odd
def frequencies():
    body = Call(
        lambda x, linear: torch.tanh(linear(torch.fft.rfft2(x / 255).abs().flatten(1))),
        nn.Linear(54, 6),
    )
    return headed(body, 6)


@odd
def spatial_transformer():
    def forward(x, where, rest):
        theta = where(curved(x)).view(-1, 2, 3)
        grid = F.affine_grid(theta, list(x.shape), align_corners=False)
        return rest(F.grid_sample(x / 255, grid, align_corners=False))

    where = nn.Sequential(nn.Flatten(), nn.Linear(90, 6))
    return headed(Call(forward, where, features()), 8)


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.clamp(-1e-3, 1e-3)


@odd
def custom_gradient():
    return headed(Call(lambda x, b: b(Clipped.apply(x)), features()), 8)


@odd
def gradient_in_the_forward_pass():
    def forward(x, energy):
        with torch.enable_grad():
            y = x / 255 if x.requires_grad else (x / 255).requires_grad_()
            (g,) = torch.autograd.grad(energy(y).square().sum(), y, create_graph=True)
        return g.flatten(1)

    return headed(Call(forward, features()), 90)


@odd
def mapped_by_vmap():
    return headed(
        Call(
            lambda x, linear: torch.vmap(lambda i: torch.tanh(linear(i.flatten())))(x / 255),
            nn.Linear(90, 5),
        ),
        5,
    )


@odd
def loop_until_small():
    def forward(x, linear):
        y = torch.tanh(linear(x.flatten(1) / 255))
        while (large := y.detach().abs().amax(1, keepdim=True) > 0.3).any():
            y = torch.where(large, y * 0.8, y)
        return y

    return headed(Call(lambda x, linear: forward(x[:, :, :1, :1], linear), nn.Linear(3, 5)), 5)


@odd
def branch_on_shape():
    return headed(Call(lambda x, b: b(x) if x.shape[0] else x, features()), 8)


@odd
def writes_in_place():
    def forward(x, b):
        y = x / 255
        y[:, 0] *= 2
        y[:, 1:].add_(0.1)
        return b(y)

    return headed(Call(forward, features()), 8)


@odd
def hook_on_a_gradient():
    def forward(x, b):
        y = x / 255
        if y.requires_grad:
            y.register_hook(lambda g: g * 2)
        return b(y)

    return headed(Call(forward, features()), 8)


@odd
def keyword_only_call():
    class Whole(Headed):
        def forward(self, x):
            return self.head(input=self.body(input=x))

    body = features()
    return Whole(body, nn.Linear(8, 3)), body


@odd
def list_of_logits():
    class Whole(Headed):
        def forward(self, x):
            y = self.body(x)
            return [self.head(y), None, "label"]

    body = features()
    return Whole(body, nn.Linear(8, 3)), body


@odd
def convolution_head():
    body = Call(lambda x, b: b(curved(x)), convolutions())
    model = nn.Sequential(body, nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return model, body


@odd
def nested_compile():
    body = features()
    return headed(torch.compile(body, backend="eager"), 8)[0], copy.deepcopy(body)


@odd
def compiled_in_place():
    body = features()
    plain = copy.deepcopy(body)
    model = headed(body, 8)[0]
    model.compile(backend="eager")
    return model, plain


@odd
def body_compiled_in_place():
    body = features()
    plain = copy.deepcopy(body)
    body.compile(backend="eager")
    return headed(body, 8)[0], plain


@odd
def nested_data_parallel():
    body = features()
    return headed(nn.DataParallel(body), 8)[0], body


@odd
def exponential_average():
    body = features()
    return torch.optim.swa_utils.AveragedModel(Headed(body, nn.Linear(8, 3))), body


@odd
def memory_format_of_its_own():
    body = Call(lambda x, b: b(x.contiguous(memory_format=torch.channels_last)), features())
    return headed(body, 8)


@odd
def channels_last_weights():
    model, body = headed(features(), 8)
    return model.to(memory_format=torch.channels_last), body


# Heads that are no nn.Linear.


class WrappedLinear(nn.Module):
    """A linear head in the way of libraries for adapters and quantisation."""

    def __init__(self, before: int, after: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(before, after) * 0.3)
        self.bias = nn.Parameter(torch.randn(after))

    def forward(self, x):
        return torch.addmm(self.bias, x, self.weight)


@odd
def head_of_its_own_class():
    body = features()
    return nn.Sequential(body, WrappedLinear(8, 3), nn.Softmax(1)), body


@odd
def head_in_two_parts():
    """A factorised head, as compression makes it."""
    body = features()
    return nn.Sequential(body, LoRA(nn.Linear(8, 3), rank=1), ScaleModule()), body


@odd
def two_heads_of_the_same_features():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.a, self.b = features(), nn.Linear(8, 3), nn.Linear(8, 2)

        def forward(self, x):
            y = self.body(x)
            return Output(self.a(y), self.b(y) / 7)

    model = Two()
    return model, model.body


@odd
def excited():
    def forward(x, first, squeeze):
        y = F.relu(first(x / 255))
        return (y * squeeze(y.mean((2, 3), keepdim=True)).sigmoid()).view(len(x), -1)

    return headed(Call(forward, nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)), 48)


@odd
def up_and_down():
    def forward(x, down, up):
        y = F.gelu(down(x / 255))
        y = torch.cat([F.interpolate(y, size=x.shape[2:], mode="bilinear"), x / 255], 1)
        return F.gelu(up(y)).view(len(x), -1)

    return headed(Call(forward, nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(7, 2, 3)), 24)


@odd
def called_functionally():
    def forward(x, body):
        weights = {name: w * 1.5 for name, w in body.named_parameters()}
        return torch.func.functional_call(body, weights, (x,))

    return headed(Call(forward, features()), 8)


@odd
def pixels_sorted():
    return headed(Call(lambda x, b: b(x.flatten(2).sort(-1)[0].view_as(x)), features()), 8)


@odd
def complex_activations():
    def forward(x, linear):
        z = torch.polar(torch.ones_like(x), x / 255)
        return linear(torch.view_as_real(z * z.roll(1, -1)).flatten(1)).tanh()

    return headed(Call(forward, nn.Linear(180, 7)), 7)


# Φ cannot be known, or has no gradient.


@refused(r"use_reentrant=False")
def checkpoint_reentrant():
    return checkpointed(True)[0]


@refused(r"use_reentrant=False")
def checkpoint_reentrant_around_the_head():
    class Whole(Headed):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=True)

    return Whole(features(), nn.Linear(8, 3))


@refused(r"no gradient to the images.*torch\.no_grad")
def everything_without_gradients():
    class Whole(Headed):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    return Whole(features(), nn.Linear(8, 3))


@refused(r"no gradient to the images.*torch\.inference_mode")
def everything_in_inference_mode():
    class Whole(Headed):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    return Whole(features(), nn.Linear(8, 3))


@refused(r"'head', 'head_dist'.*'norm' makes.*layer=NAME")
def distilled():
    class Distilled(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = nn.Conv2d(3, 8, 3), nn.LayerNorm(8)
            self.drop, self.head, self.head_dist = nn.Dropout(), nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x):
            x = self.norm(self.embed(x / 255).flatten(2).transpose(1, 2))
            return (self.head(self.drop(x[:, 0])) + self.head_dist(self.drop(x[:, 1]))) / 2

    return Distilled()


def quantised():
    return torch.ao.quantization.quantize_dynamic(
        nn.Sequential(*features(), nn.Linear(8, 3)).eval(), {nn.Linear}
    )


if hasattr(torch.ao, "quantization"):  # a later PyTorch has it in a package of its own
    refused(r"no derivative.*quantised")(quantised)


class ArcFace(nn.Module):
    """Cosines of the angles to the classes."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        return F.linear(F.normalize(x), F.normalize(self.weight)) * 16


@refused(r"'1' \(ArcFace\).*layer=NAME.*output of '0\.6'")
def arc_face():
    return nn.Sequential(features(), ArcFace())


@refused(r"'the model' \(Projected\).*layer=NAME")
def projected():
    """The last product is the network's own: the Linear before it is no classifier."""

    class Projected(Headed):
        def __init__(self):
            super().__init__(features(), nn.Linear(8, 6))
            self.projection = nn.Parameter(torch.randn(6, 3))

        def forward(self, x):
            return self.head(self.body(x)) @ self.projection * self.logit_scale.exp()

    return Projected()


@refused(r"'the model' \(Sequential\).*Layers inside '1' \(RecursiveScriptModule\)")
def scripted_head():
    return nn.Sequential(features(), torch.jit.script(nn.Linear(8, 3)))


@refused(r"Layers inside 'the model' \(TopLevelTracedModule\).*Python network")
def traced_whole():
    model = nn.Sequential(*features(), nn.Linear(8, 3)).eval()
    return torch.jit.trace(model, torch.rand(2, 3, HEIGHT, WIDTH))


@refused(r"Layers inside 'the model'.*torch\.export\.unflatten")
def exported_whole():
    model = nn.Sequential(*features(), nn.Linear(8, 3)).eval()
    return torch.export.export(model, (torch.rand(4, 3, HEIGHT, WIDTH),)).module()
