"""Random networks in plain torch, drawn by hypothesis as the code that a user would write.

A `Composition` is text: layers, and the lines of a forward pass over values (C, H, W), tokens
(T, F) and vectors (F,). What fails is therefore shown as code that runs by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from networks import unsettled
from torch import Tensor, nn
from torch.nn import functional as F

MOST_ELEMENTS = 1500  # of a value of one image, so that a network takes milliseconds


@dataclass
class Composition:
    """A network as text, and how many images it is given.

    Attributes:
        seed: of its weights and images.
        shape: of one image, (C, H, W).
        images: how many.
        layers: the layers and parameters, by their names.
        lines: of the forward pass; they read x0, the images, and the values of earlier lines.
        result: the value that the classifier reads, flattened.
    """

    seed: int
    shape: tuple[int, int, int]
    images: int = 2
    layers: dict[str, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    result: str = "x0"

    def __repr__(self) -> str:
        """Code that makes `network` and `images`."""
        made = [f"self.{name} = {code}" for name, code in self.layers.items()]
        body = "\n".join(
            [
                "class Network(nn.Module):",
                "    def __init__(self):",
                *(f"        {line}" for line in ("super().__init__()", *made)),
                "    def forward(self, x0):",
                *(f"        {line}" for line in self.lines),
                f"        return self.classifier({self.result}.flatten(1))",
                "network = unsettled(Network().eval().requires_grad_(False), generator)",
                f"images = torch.randn({self.images}, *{self.shape}, generator=generator)",
            ]
        )
        first = f"torch.manual_seed({self.seed})\ngenerator = torch.Generator()"
        return f"\n{first}.manual_seed({self.seed})\n{body}\n"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        """Hypothesis prints a failure so."""
        printer.text(repr(self))

    def build(self) -> tuple[nn.Module, Tensor]:
        """The network in evaluation mode, and its images."""
        names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F, "unsettled": unsettled}
        exec(repr(self), names)
        return names["network"], names["images"]


class Writer:
    """Writes a composition while it is drawn, and runs it along to know the shapes."""

    def __init__(self, number: Callable[[int, int], int], composition: Composition) -> None:
        """Begin.

        Args:
            number: draws one of low … high, both included.
            composition: what is written.
        """
        self.composition = composition
        self.number = number
        self._layers = SimpleNamespace()
        self._values: dict[str, Any] = {"x0": torch.rand(2, *composition.shape)}
        self.last = "x0"

    def one_of(self, *choices: Any) -> Any:
        """One of some choices."""
        return choices[self.number(0, len(choices) - 1)]

    def maybe(self) -> bool:
        """True or False."""
        return self.number(0, 1) == 1

    def shape(self, name: str | None = None) -> tuple[int, ...]:
        """One image's shape of a value, by default the last one."""
        return tuple(self._values[name or self.last].shape[1:])

    def earlier(self, shape: tuple[int, ...] | None = None, rank: int | None = None) -> list[str]:
        """The values so far of a shape or of so many dimensions, the last one last."""
        return [
            name
            for name, value in self._values.items()
            if name[0] == "x" and (shape is None or tuple(value.shape[1:]) == shape)
            and (rank is None or value.dim() == rank + 1)
        ]  # fmt: skip

    def layer(self, code: str) -> str:
        """A layer or a parameter; returns how it is read."""
        name = f"l{len(self.composition.layers)}"
        self.composition.layers[name] = code
        setattr(self._layers, name, eval(code, {"torch": torch, "nn": nn}))
        return f"self.{name}"

    def parameter(self, *shape: int) -> str:
        """A parameter; returns how it is read."""
        return self.layer(f"nn.Parameter(torch.randn({', '.join(map(str, shape))}))")

    def line(self, code: str) -> None:
        """A line of the forward pass."""
        names = {"torch": torch, "F": F, "self": self._layers} | self._values
        for module in vars(self._layers).values():
            if isinstance(module, nn.Module):
                module.eval()
        with torch.no_grad():
            exec(code, names)
        self._values = {n: v for n, v in names.items() if isinstance(v, Tensor | tuple)}
        self.composition.lines.append(code)

    def value(self, code: str) -> str:
        """A line that computes the next value."""
        number = sum(name[0] == "x" for name in self._values)
        self.line(f"x{number} = {code}")
        self.last = f"x{number}"
        return self.last

    def close(self) -> Composition:
        """Append the classifier."""
        features = self._values[self.last].flatten(1).shape[1]
        self.composition.result = self.last
        self.composition.layers["classifier"] = f"nn.Linear({features}, 3)"
        return self.composition


SMOOTH = ("SiLU()", "GELU()", "GELU(approximate='tanh')", "Sigmoid()", "Tanh()", "ELU(0.7)",
          "SELU()", "CELU(1.3)", "Mish()", "Softplus(2)", "LogSigmoid()", "Softsign()",
          "Tanhshrink()")  # fmt: skip
PIECEWISE = ("ReLU()", "ReLU6()", "Hardtanh(-0.5, 0.7)", "LeakyReLU(0.2)", "Hardswish()",
             "Hardsigmoid()", "Softshrink(0.2)", "Hardshrink(0.2)", "Threshold(0.1, 0)",
             "ReLU(inplace=True)", "RReLU()")  # fmt: skip


def activation(w: Writer) -> None:
    x, shape = w.last, w.shape()
    kind = w.one_of("smooth", "piecewise", "prelu", "glu", "function")
    if kind == "prelu" and len(shape) != 2:
        w.value(f"{w.layer(f'nn.PReLU({w.one_of(1, shape[0])})')}({x})")
    elif kind == "glu" and shape[-1] % 2 == 0:
        w.line(f"a, b = {x}.chunk(2, -1)")
        w.value(f"a * {w.one_of('F.silu', 'F.gelu', 'torch.sigmoid', 'F.relu')}(b)")
    elif kind == "function":
        w.value(w.one_of("{}.exp().clamp(max=3)", "{}.sin()", "({} ** 2 + 1).sqrt()", "{}.abs()",
                         "{}.square() * 0.3", "1 / (1 + {}.abs())", "{}.relu().pow(1.5)",
                         "torch.where({0} > 0.3, {0}, 0.2 * {0})",
                         "torch.maximum({0}, 0.5 - {0})", "{}.softmax(-1)", "{}.softmax(1)",
                         "{}.log_softmax(-1)", "{}.exp2().clamp(max=3)", "{}.atan()",
                         "torch.logaddexp({0}, {0}.sin())", "{0} * {0}.detach().tanh()",
                         "F.softplus({}, 2, 3)").format(x))  # fmt: skip
    elif kind == "piecewise":
        name = w.one_of(*PIECEWISE)
        w.value(f"{w.layer(f'nn.{name}')}({x} + 0)" if "inplace" in name
                else f"{w.layer(f'nn.{name}')}({x})")  # fmt: skip
    else:
        w.value(f"{w.layer(f'nn.{w.one_of(*SMOOTH)}')}({x})")


# Images


def convolution(w: Writer) -> None:
    channels, *size = w.shape()
    kernel = [w.number(1, 4) for _ in size]
    dilation, mode = w.number(1, 2), w.one_of("zeros", "zeros", "reflect", "replicate", "circular")
    most = [2 if mode == "zeros" else min(2, n - 1) for n in size]
    padding = [w.number(0, p) for p in most]
    if any(n + 2 * p < dilation * (k - 1) + 1
           for n, k, p in zip(size, kernel, padding, strict=True)):  # fmt: skip
        kernel, dilation = [1, 1], 1
    groups = w.one_of(1, 1, channels, *[2] * (channels % 2 == 0))
    out = groups * w.number(1, max(1, 8 // groups))
    code = f"nn.Conv2d({channels}, {out}, {tuple(kernel)}, stride={w.one_of(1, 1, 2)}, "
    code += f"padding={tuple(padding)}, dilation={dilation}, groups={groups}, bias={w.maybe()}, "
    w.value(f"{w.layer(f'{code}padding_mode={mode!r})')}({w.last})")


def transposed(w: Writer) -> None:
    channels, height, width = w.shape()
    if 4 * channels * height * width > MOST_ELEMENTS:
        return
    stride = w.number(1, 2)
    groups = w.one_of(1, 1, channels, *[2] * (channels % 2 == 0))
    kernel = w.number(stride, 4)
    code = f"nn.ConvTranspose2d({channels}, {groups * w.number(1, 3)}, {kernel}, {stride}, "
    code += f"padding={w.number(0, (kernel - 1) // 2)}, output_padding={w.number(0, stride - 1)}, "
    w.value(f"{w.layer(f'{code}groups={groups}, bias={w.maybe()})')}({w.last})")


def norm(w: Writer) -> None:
    x, (channels, height, width) = w.last, w.shape()
    groups = w.one_of(1, channels, *[2] * (channels % 2 == 0))
    kind = w.one_of("batch", "group", "instance", "last", "first", "rms", "whole", "unit", "grn")
    if kind == "batch":
        w.value(f"{w.layer(f'nn.BatchNorm2d({channels})')}({x})")
    elif kind == "group":
        w.value(f"{w.layer(f'nn.GroupNorm({groups}, {channels}, affine={w.maybe()})')}({x})")
    elif kind == "instance" and height * width > 1:
        options = f"affine={w.maybe()}, track_running_stats={w.maybe()}"
        w.value(f"{w.layer(f'nn.InstanceNorm2d({channels}, {options})')}({x})")
    elif kind == "last":
        layer = w.layer(f"nn.LayerNorm({channels}, elementwise_affine={w.maybe()})")
        w.value(f"{layer}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")
    elif kind == "first":
        gain, shift = w.parameter(channels, 1, 1), w.parameter(channels, 1, 1)
        w.line(f"a = {x} - {x}.mean(1, keepdim=True)")
        w.value(f"{gain} * a / (a.pow(2).mean(1, keepdim=True) + 1e-3).sqrt() + {shift}")
    elif kind == "rms":
        layer = w.layer(f"nn.RMSNorm({channels}, eps=1e-3)")
        w.value(f"{layer}({x}.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)")
    elif kind == "whole":
        w.value(f"{w.layer(f'nn.LayerNorm({[channels, height, width]})')}({x})")
    elif kind == "unit":
        # Of one element it is the sign, whose derivative is nothing but rounding.
        dims = [dim for dim, size in ((1, channels), (3, width)) if size > 1]
        w.value(f"F.normalize({x}, dim={w.one_of(*dims)}, eps=0.1)" if dims else f"{x} / 2")
    elif kind == "grn":
        gain, shift = w.parameter(channels, 1, 1), w.parameter(channels, 1, 1)
        w.line(f"a = ({x}.square().sum((2, 3), keepdim=True) + 0.1).sqrt()")
        w.value(f"{x} + {gain} * ({x} * (a / (a.mean(1, keepdim=True) + 1e-3))) + {shift}")


def pool(w: Writer) -> None:
    x, (_, height, width) = w.last, w.shape()
    kernel = [w.number(1, min(3, n)) for n in (height, width)]
    options = f"{tuple(kernel)}, stride={w.one_of(1, 1, 2, 3)}, "
    options += f"padding={tuple(w.number(0, k // 2) for k in kernel)}, ceil_mode={w.maybe()}"
    kind = w.one_of("max", "average", "adaptive", "adaptive max", "lp")
    if kind == "max":
        w.value(f"F.max_pool2d({x}, {options})")
    elif kind == "average":
        w.value(f"F.avg_pool2d({x}, {options}, count_include_pad={w.maybe()})")
    elif kind == "lp":
        w.value(f"F.lp_pool2d({x}.abs() + 0.1, 2, {tuple(kernel)})")
    else:
        name = "max" if "max" in kind else "avg"
        w.value(f"F.adaptive_{name}_pool2d({x}, {(w.number(1, 3), w.number(1, 3))})")


def resize(w: Writer) -> None:
    x, (channels, height, width) = w.last, w.shape()
    large = 4 * channels * height * width > MOST_ELEMENTS
    kind = w.one_of("nearest", "bilinear", "bicubic", "shuffle", "unshuffle", "channels", "to")
    if kind in ("nearest", "bilinear", "bicubic"):
        to = [w.number(1, n if large else 2 * n) for n in (height, width)]
        aligned = "" if kind == "nearest" else f", align_corners={w.maybe()}"
        w.value(f"F.interpolate({x}, size={tuple(to)}, mode='{kind}'{aligned})")
    elif kind == "shuffle" and channels % 4 == 0:
        w.value(f"F.pixel_shuffle({x}, 2)")
    elif kind == "unshuffle" and height % 2 == width % 2 == 0:
        w.value(f"F.pixel_unshuffle({x}, 2)")
    elif kind == "channels" and channels % 2 == 0:
        w.line(f"a = {x}.reshape(len({x}), 2, {channels // 2}, {height}, {width})")
        w.value(f"a.transpose(1, 2).reshape(len({x}), {channels}, {height}, {width})")
    elif kind == "to":  # a U-Net's way up
        other = w.one_of(*w.earlier(rank=3))
        if channels * w.shape(other)[1] * w.shape(other)[2] <= MOST_ELEMENTS:
            w.line(f"a = F.interpolate({x}, {other}.shape[2:], mode={w.one_of('bilinear', 'nearest')!r})")  # noqa: E501  # fmt: skip
            w.value(f"torch.cat([a, {other}], 1)")


def pad(w: Writer) -> None:
    x, (_, height, width) = w.last, w.shape()
    mode = w.one_of("constant", "reflect", "replicate", "circular", "crop", "flip", "roll", "turn")
    if mode == "crop":
        w.value(f"{x}[:, :, {w.number(0, height - 1)}:, :{w.number(1, width)}]")
    elif mode == "flip":
        w.value(f"{x}.flip({w.one_of((2,), (3,), (1, 3))})")
    elif mode == "roll":
        w.value(f"{x}.roll(({w.number(-2, 2)}, 1), (2, 3))")
    elif mode == "turn":
        w.value(f"{x}.transpose(2, 3)")
    else:
        most = (
            [2] * 4 if mode == "constant" else [min(2, n - 1) for n in (width,) * 2 + (height,) * 2]
        )
        value = f", value={w.one_of(0, 0.5)}" if mode == "constant" else ""
        w.value(f"F.pad({x}, {tuple(w.number(0, n) for n in most)}, mode={mode!r}{value})")


def gate(w: Writer) -> None:
    x, (channels, _, _) = w.last, w.shape()
    squeezed = w.one_of("{}.mean((2, 3), keepdim=True)", "F.adaptive_avg_pool2d({}, 1)",
                        "{}.amax((2, 3), keepdim=True)").format(x)  # fmt: skip
    kind = w.one_of("squeeze", "linear", "spatial", "halves", "split")
    sigmoid = w.one_of("torch.sigmoid", "F.hardsigmoid", "F.silu")
    if kind == "squeeze":
        first, last = (
            w.layer(f"nn.Conv2d({a}, {b}, 1)") for a, b in ((channels, 3), (3, channels))
        )
        w.line(f"a = {last}(F.relu({first}({squeezed})))")
        w.value(f"{x} * {sigmoid}(a)")
    elif kind == "linear":
        layer = w.layer(f"nn.Linear({channels}, {channels})")
        w.value(f"{x} * {sigmoid}({layer}({squeezed}.flatten(1)))[:, :, None, None]")
    elif kind == "spatial":
        layer = w.layer("nn.Conv2d(2, 1, 3, padding=1)")
        w.line(f"a = torch.cat([{x}.mean(1, keepdim=True), {x}.amax(1, keepdim=True)], 1)")
        w.value(f"{x} * {sigmoid}({layer}(a))")
    elif kind == "halves" and channels % 2 == 0:
        w.line(f"a, b = {x}.chunk(2, 1)")
        w.value("a * b")
    elif kind == "split":  # split attention of radix 2
        layer = w.layer(f"nn.Conv2d({channels}, {2 * channels}, 1)")
        w.line(f"a = torch.stack([{x}, {x}.tanh()], 1)")
        w.line(f"b = {layer}(a.sum(1).mean((2, 3), keepdim=True))")
        w.line(f"b = b.view(len({x}), 2, {channels}, 1, 1).softmax(1)")
        w.value("(a * b).sum(1)")


def branches(w: Writer) -> None:
    x, shape = w.last, w.shape()
    other = w.one_of(*w.earlier(shape))
    kind = w.one_of(
        "sum", "difference", "scaled", "product", "concat", "stack", "written", "maximum"
    )
    if other == x and len(shape) == 3:
        other = w.value(f"{w.layer(f'nn.Conv2d({shape[0]}, {shape[0]}, 1)')}({x})")
    elif other == x:
        other = w.value(f"{w.layer(f'nn.Linear({shape[-1]}, {shape[-1]})')}({x})")
    w.value(
        {
            "sum": f"{x} + {other}",
            "difference": f"{x} - {other}",
            "scaled": f"torch.add({x}, {other}, alpha=0.3)",
            "product": f"{x} * {other}",
            "concat": f"torch.cat([{x}, {other}], {w.number(1, len(shape))})",
            "stack": f"torch.stack([{other}, {x}], {w.number(1, len(shape))}).mean({len(shape)})",
            "written": f"({x} * 2).add_({other})",
            "maximum": f"torch.maximum({x}, {other})",
        }[kind]
    )


def arithmetic(w: Writer) -> None:
    x, shape = w.last, w.shape()
    kept = [w.one_of(1, n) for n in shape]
    code = w.one_of("{x} * {p}", "{x} + {p}", "{p} - {x}", "{x} / (1 + {p}.abs())", "{x} * 0.5 + 1",
                    "({x} - 0.5) / 0.25", "{x} - {x}.mean({d}, keepdim=True)",
                    "{x} / (1 + {x}.abs().amax({d}, keepdim=True))",
                    "{x} * {x}.mean({d}, keepdim=True)",
                    "{x} + {x}.std({d}, keepdim=True, correction=0).clamp(min=0.1)",
                    "{x} + {x}.norm(dim={d}, keepdim=True)",
                    "torch.lerp({x}, {x}.tanh(), 0.3)",
                    "torch.addcmul({x}, {x}, {p}, value=0.5)",
                    "{x}.cumsum({d}) * 0.3", "{x}.logcumsumexp({d}) * 0.3")  # fmt: skip
    p = w.parameter(*kept) if "{p}" in code else ""
    w.value(code.format(x=x, p=p, d=w.number(1, len(shape))))


def taken(w: Writer) -> None:
    """Indexing with constants, and repeating."""
    x, shape = w.last, w.shape()
    d = w.number(1, len(shape))
    size = shape[d - 1]
    places = [w.number(-size, size - 1) for _ in range(w.number(1, 4))]
    before = ":, " * d
    small = 2 * torch.Size(shape).numel() <= MOST_ELEMENTS
    kind = w.one_of("list", "select", "pairs", "repeat", "interleave", "expand", "turn")
    if kind == "list":
        w.value(f"{x}[{before}{places}]")
    elif kind == "select":
        w.value(f"{x}.index_select({d}, torch.tensor({[p % size for p in places]}))")
    elif kind == "pairs" and len(shape) == 3:
        columns = [w.number(0, shape[2] - 1) for _ in range(2)]
        rows = [w.number(0, shape[1] - 1) for _ in range(2)]
        w.value(f"{x}[:, :, {rows}, {columns}].unsqueeze(-1)")
    elif kind == "repeat" and small:
        times = [1] * (len(shape) + 1)
        times[d] = 2
        w.value(f"{x}.{w.one_of('repeat', 'tile')}({', '.join(map(str, times))})")
    elif kind == "interleave" and small:
        w.value(f"{x}.repeat_interleave(2, {d})")
    elif kind == "expand" and small:
        sizes = [-1] * (len(shape) + 2)
        sizes[d] = 2
        w.value(f"{x}.unsqueeze({d}).expand({sizes}).flatten({d}, {d + 1})")
    elif kind == "turn" and len(shape) == 3:
        w.value(f"{x}.rot90({w.number(1, 3)}, (2, 3))")


def chosen(w: Writer) -> None:
    """Masks that depend on the images."""
    x, shape = w.last, w.shape()
    other = w.one_of(*w.earlier(shape))
    small = f"{x}.mean({w.number(1, len(shape))}, keepdim=True)"
    bound = w.one_of("0.1", "0", small, f"{other}.sin()", w.parameter(shape[-1]))
    mask = f"{w.one_of(x, other)} {w.one_of('>', '<', '>=', '<=')} {bound}"
    if w.maybe():
        sign = w.one_of("&", "|", "^")
        mask = f"({mask}) {sign} {w.one_of('', '~')}({other}.cos() > 0.2)"
    w.line(f"m = {mask}")
    code = w.one_of("torch.where(m, {x}, 0.3 * {x})", "torch.where(m, {x}, {other}.tanh())",
                    "{x}.masked_fill(m, 0.2)", "torch.where(m, 0.5, {x})", "{x} * m",
                    "{x} * m.to({x}.dtype)", "torch.clamp({x}, {small})",
                    "torch.where(m, {small}, {x})")  # fmt: skip
    w.value(code.format(x=x, other=other, small=small))


def written(w: Writer) -> None:
    """In place: into a copy, and into a part of it."""
    x = w.last
    w.line(f"a = {x}.clone()" if w.maybe() else f"a = {x} * 1.5")
    code = w.one_of("a.mul_(0.5)", "a += {x}", "a.relu_()", "a[:, :1] = 0.5",
                    "a[:, :1] += {x}[:, :1]", "a[..., ::2] *= 2", "a.clamp_(-1, 1)",
                    "a.select(1, 0).sigmoid_()", "a.copy_({x} - a)",
                    "F.leaky_relu_(a, 0.3)", "b = a[:, -1:]\na[:, :1] *= 2\nb += {x}[:, :1]",
                    "a.transpose(1, -1)[:, :1] = {x}.transpose(1, -1)[:, -1:].sin()",
                    "a.flatten(1)[:, ::3].tanh_()",
                    "a = torch.zeros_like(a)\na[:, :1] = {x}[:, :1]",
                    "a[..., -1] = {x}[..., 0]", "a[{x} > 0.5] = 0.1")  # fmt: skip
    for line in code.format(x=x).split("\n"):
        w.line(line)
    w.value(w.one_of("a", "a + {x}", "a.contiguous()").format(x=x))


def to_tokens(w: Writer) -> None:
    x, (channels, height, width) = w.last, w.shape()
    w.value(
        w.one_of(
            f"{x}.flatten(2).transpose(1, 2)",
            f"{x}.permute(0, 2, 3, 1).reshape(len({x}), {height * width}, {channels})",
            f"{x}.reshape(len({x}), {channels}, {height * width}).permute(0, 2, 1).contiguous()",
        )
    )


def windows(w: Writer) -> None:
    """Attention or a linear layer inside windows of an image."""
    x, (channels, height, width) = w.last, w.shape()
    size = w.one_of(2, 3)
    if height % size or width % size:
        down, right = -height % size, -width % size
        x = w.value(f"F.pad({x}, (0, {right}, 0, {down}))")
        height, width = height + down, width + right
    if channels * height * width > MOST_ELEMENTS:
        return
    rows, columns = height // size, width // size
    w.line(f"a = {x}.permute(0, 2, 3, 1)")
    shifted = w.maybe()
    if shifted:
        w.line("a = torch.roll(a, (-1, -1), (1, 2))")
    w.line(f"a = a.view(-1, {rows}, {size}, {columns}, {size}, {channels})" if w.maybe() else
           f"a = a.reshape(len({x}), {rows}, {size}, {columns}, {size}, {channels})")  # fmt: skip
    w.line(f"a = a.permute(0, 1, 3, 2, 4, 5).reshape(-1, {size * size}, {channels})")
    _attend(w, size * size, channels, "a")
    w.line(f"a = b.view(-1, {rows}, {columns}, {size}, {size}, {channels})")
    w.line(f"a = a.permute(0, 1, 3, 2, 4, 5).reshape(len({x}), {height}, {width}, {channels})")
    if shifted:
        w.line("a = torch.roll(a, (1, 1), (1, 2))")
    w.value("a.permute(0, 3, 1, 2)" + w.one_of("", ".contiguous()", f" + {x}"))


# Tokens


def _attend(w: Writer, tokens: int, features: int, x: str) -> None:
    """Attention of tokens `x`; its result is `b`."""
    heads = w.one_of(*[h for h in (1, 2, 3) if features % h == 0])
    width = features // heads
    qkv, last = (w.layer(f"nn.Linear({features}, {n})") for n in (3 * features, features))
    how = w.one_of("packed", "apart", "product", "linear", "module")
    if how == "module":
        layer = w.layer(f"nn.MultiheadAttention({features}, {heads}, batch_first=True)")
        w.line(f"b = {layer}({x}, {x}, {x}, need_weights={w.maybe()})[0]")
        return
    if how == "apart":
        w.line(f"q, k, v = {qkv}({x}).chunk(3, -1)")
        w.line(f"q, k, v = [t.reshape(len(t), {tokens}, {heads}, {width}).transpose(1, 2) "
               "for t in (q, k, v)]")  # fmt: skip
    else:
        w.line(f"q, k, v = {qkv}({x}).reshape(len({x}), {tokens}, 3, {heads}, {width})"
               ".permute(2, 0, 3, 1, 4).unbind(0)")  # fmt: skip
    if w.maybe():
        w.line(f"q, k = {w.layer(f'nn.LayerNorm({width})')}(q), F.normalize(k, dim=-1, eps=0.1)")
    if how == "linear":
        w.line("q, k = F.elu(q) + 1, F.relu(k)")
        w.line("b = (q @ (k.transpose(-2, -1) @ v)) / (q @ k.sum(-2, keepdim=True).mT + 1)")
    elif how == "product":
        bias = f" + {w.parameter(heads, tokens, tokens)}" if w.maybe() else ""
        w.line(f"a = (q * {width}**-0.5) @ k.transpose(-2, -1){bias}")
        w.line("b = a.softmax(-1) @ v")
    else:
        mask = w.one_of("", ", is_causal=True", ", attn_mask={}")
        p = w.parameter(heads, tokens, tokens) if "{}" in mask else ""
        w.line(f"b = F.scaled_dot_product_attention(q, k, v{mask.format(p)})")
    w.line(f"b = {last}(b.transpose(1, 2).reshape(len(b), {tokens}, {features}))")


def attention(w: Writer) -> None:
    x, (tokens, features) = w.last, w.shape()
    if w.maybe():
        w.line(f"a = {w.layer(f'nn.LayerNorm({features})')}({x})")
    else:
        w.line(f"a = {x}")
    _attend(w, tokens, features, "a")
    scale = f"{w.parameter(features)} * " if w.maybe() else ""
    w.value(f"{x} + {scale}b" if w.maybe() else f"{scale}b")


def perceptron(w: Writer) -> None:
    """Linear layers on the last dimension: of tokens, vectors, or images turned."""
    x, shape = w.last, w.shape()
    turned = len(shape) == 3
    features = shape[0] if turned else shape[-1]
    hidden = w.number(1, 9)
    first = w.layer(f"nn.Linear({features}, {hidden}, bias={w.maybe()})")
    last = w.layer(f"nn.Linear({hidden}, {features})")
    act = w.one_of("F.gelu", "F.relu", "F.silu", "torch.tanh", "F.hardswish")
    x = f"{x}.permute(0, 2, 3, 1)" if turned else x
    scale = f" * {w.parameter(features)}" if w.maybe() else ""
    back = ".permute(0, 3, 1, 2)" if turned else ""
    w.line(f"a = {last}({act}({first}({x}))){scale}")
    w.value(f"(a + {x}){back}" if w.maybe() else f"a{back}")


def tokens_changed(w: Writer) -> None:
    x, (tokens, features) = w.last, w.shape()
    kind = w.one_of("class", "position", "drop", "mix", "along", "norm", "rms", "select", "merge",
                    "image", "mean", "rotary", "expand", "halves")  # fmt: skip
    if kind == "class":
        w.value(f"torch.cat([{w.parameter(1, 1, features)}.expand(len({x}), -1, -1), {x}], 1)")
    elif kind == "position":
        w.value(f"{x} + {w.parameter(1, tokens, features)}")
    elif kind == "drop" and tokens > 1:
        w.value(f"{x}[:, 1:]")
    elif kind == "mix":
        layer = w.layer(f"nn.Linear({tokens}, {w.number(1, 6)})")
        w.value(f"{layer}({x}.transpose(1, 2)).transpose(1, 2)")
    elif kind == "along":
        w.value(f"{w.layer(f'nn.Conv1d({features}, {w.number(1, 6)}, 3, padding=1)')}"
                f"({x}.transpose(1, 2)).transpose(1, 2)")  # fmt: skip
    elif kind == "norm":
        w.value(f"{w.layer(f'nn.LayerNorm({features}, bias={w.maybe()})')}({x})")
    elif kind == "rms":
        w.value(f"{w.layer(f'nn.RMSNorm({features}, eps=1e-3)')}({x})")
    elif kind == "select":
        w.value(f"{x}[:, {w.number(0, tokens - 1)}]")
    elif kind == "merge" and tokens % 2 == 0:
        w.value(f"torch.cat([{x}[:, 0::2], {x}[:, 1::2]], -1)")
    elif kind == "image":
        height = max(h for h in (1, 2, 3, 5) if tokens % h == 0)
        w.value(f"{x}.transpose(1, 2).reshape(len({x}), {features}, {height}, {tokens // height})")
    elif kind == "mean":
        w.value(f"{x}.{w.one_of('mean(1)', 'amax(1)', 'sum(1)')}")
    elif kind == "rotary" and features % 2 == 0:
        p = w.parameter(tokens, features)
        w.line(f"a = torch.stack([-{x}[..., 1::2], {x}[..., ::2]], -1).reshape({x}.shape)")
        w.value(f"{x} * {p}.cos() + a * {p}.sin()")
    elif kind == "expand":
        w.value(f"({x}.unsqueeze(2) * {w.parameter(2, 1)}).flatten(1, 2)")
    elif kind == "halves" and features % 2 == 0:
        w.line(f"a, b = {x}.split({features // 2}, -1)")
        w.value("torch.cat([b, a.tanh()], -1)")


def vectors_changed(w: Writer) -> None:
    x, (features,) = w.last, w.shape()
    kind = w.one_of("linear", "norm", "batch", "image", "gate")
    images = w.earlier(rank=3)
    if kind == "linear":
        w.value(f"{w.layer(f'nn.Linear({features}, {w.number(1, 9)}, bias={w.maybe()})')}({x})")
    elif kind == "norm":
        w.value(f"{w.layer(f'nn.LayerNorm({features})')}({x})")
    elif kind == "batch":
        w.value(f"{w.layer(f'nn.BatchNorm1d({features})')}({x})")
    elif kind == "image":
        w.value(f"{x}[:, :, None, None]")
    elif kind == "gate":
        other = w.one_of(*images)
        layer = w.layer(f"nn.Linear({features}, {w.shape(other)[0]})")
        w.value(f"{other} * torch.sigmoid({layer}({x})).unsqueeze(-1).unsqueeze(-1)")


def pooled(w: Writer) -> None:
    w.value(f"{w.last}.{w.one_of('mean((2, 3))', 'flatten(1)', 'amax((-2, -1))', 'sum((2, 3))')}")


ANY = (activation, activation, branches, arithmetic, perceptron, written, taken, chosen)
OF_RANK: dict[int, Sequence[Callable[[Writer], None]]] = {
    3: (*ANY, convolution, convolution, convolution, norm, norm, pool, resize, pad, gate,
        transposed, windows, to_tokens, to_tokens, pooled),
    2: (*ANY, attention, attention, attention, tokens_changed, tokens_changed, tokens_changed),
    1: (*ANY, vectors_changed, vectors_changed),
}  # fmt: skip


def composed(number: Callable[[int, int], int], most_layers: int) -> Composition:
    """A random network.

    Args:
        number: draws one of low … high, both included.
        most_layers: of the grammar; each may be several lines.
    """
    w = Writer(number, Composition(0, (1, 1, 1)))
    height, width = (w.one_of(6, 7, 8, 9, 5, 3, 1) for _ in range(2))
    shape = (w.one_of(3, 4, 1), height, width)
    w = Writer(number, Composition(w.number(0, 2**31), shape, w.one_of(2, 3, 5, 1)))
    stem = w.one_of("convolution", "patches", "none")
    if stem != "none":
        options = "2, 2" if stem == "patches" and min(height, width) > 1 else "3, padding=1"
        w.value(f"{w.layer(f'nn.Conv2d({shape[0]}, {w.one_of(6, 4, 8)}, {options})')}(x0)")
    if stem == "patches":
        to_tokens(w)
    for _ in range(w.number(2, most_layers)):
        if w.number(0, 5) == 0:
            w.last = w.one_of(*w.earlier())
        rank = len(w.shape())
        if rank not in OF_RANK or torch.Size(w.shape()).numel() > MOST_ELEMENTS:
            break
        w.one_of(*OF_RANK[rank])(w)
    if w.maybe():  # so that a norm's last sum is no constant
        w.value(f"{w.last} * {w.parameter(*w.shape())}")
    return w.close()


@st.composite
def compositions(draw: Callable[[Any], Any], most_layers: int) -> Composition:
    """The same, drawn by hypothesis, which makes what fails smaller."""
    return composed(lambda low, high: draw(st.integers(low, high)), most_layers)
