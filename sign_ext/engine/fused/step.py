"""A compiled step: a program's schedule bound to operators, which gives δ of a batch."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sign_ext.compiler.ir.dense import Convolution
from sign_ext.compiler.ir.inverted_residual import fuse_blocks
from sign_ext.compiler.ir.pointwise import Pointwise
from sign_ext.compiler.ir.program import (
    Program,
    as_stored,
    constant_bytes,
    program_dtype,
)
from sign_ext.compiler.memory_plan import MemoryPlan, plan_memory
from sign_ext.compiler.schedule import Schedule, schedule
from sign_ext.engine.fused.bind.binder import Binder
from sign_ext.engine.fused.bind.context import BindContext, Slots, to_channels_last
from sign_ext.engine.fused.bind.dense import library_of
from sign_ext.engine.fused.tuning_plan import StepChoices, StepCosts, choices_by_rule
from sign_ext.engine.objective import Cotangent
from sign_ext.engine.trajectory import compiled_layout, repeatable
from sign_ext.ops.stem_update import stem_update_


def activation_dtype(model_dtype: torch.dtype, precision: str) -> torch.dtype:
    """The type of activations and cotangents: the network's, or bfloat16 where that is asked for.

    A network in float16 is computed in float32, which holds its weights exactly and does not flush
    small cotangents to zero.

    Args:
        model_dtype: of the network.
        precision: "float32", "tf32" or "bfloat16".
    """
    if model_dtype == torch.float32 and precision == "bfloat16":
        return torch.bfloat16
    return program_dtype(model_dtype)


def schedule_in(program: Program, dtype: torch.dtype) -> Schedule:
    """A program's schedule with activations and cotangents of a dtype.

    Args:
        program: the network.
        dtype: of activations and cotangents.
    """
    size = torch.empty((), dtype=dtype).element_size()
    return schedule(program, size, cast=dtype not in (torch.float32, torch.float64))


class Step:
    """One step of one program for a batch size and a device.

    Its own `program` lacks the weights of which it has prepared others, in `prepared`.

    The number of images may differ from call to call; choices are made for the given one.
    """

    def __init__(
        self,
        program: Program,
        dtype: torch.dtype,
        device: torch.device,
        images: int,
        choices: StepChoices | None = None,
        *,
        tf32: bool = False,
    ) -> None:
        """Prepare the weights and bind the schedule.

        Args:
            program: the network.
            dtype: of activations and cotangents.
            device: where the images are.
            images: in a batch.
            choices: of algorithms; None for the fixed rule.
            tf32: whether our operators take float32 products in TF32; libraries follow PyTorch's
                own switches.

        Raises:
            ValueError: the choices name a place where no block that can be fused ends.
        """
        constants = torch.float64 if dtype == torch.float64 else torch.float32
        program, origin = fuse_blocks(program.to(constants), choices.blocks if choices else ())
        self.program = program
        self.dtype = dtype
        self.schedule = schedule_in(program, dtype)
        self.memory: MemoryPlan = plan_memory(self.schedule)
        self.costs = self._costs()
        self.choices = choices or choices_by_rule(self.costs, images, device)
        self.micro_batch = self.choices.micro_batch
        self.library = library_of(dtype, device)
        # The choices' places are those of the program before blocks were fused.
        by_library = frozenset(i for i, old in enumerate(origin) if old in self.choices.by_library)
        context = BindContext(program, dtype, device, self.micro_batch, by_library, tf32)
        binder = Binder(context)
        self.prepared = context.prepared
        self.stem_weight: Tensor | None = None
        if self.schedule.stem:
            self.stem, self.stem_weight = stem_of_program(program, self.schedule.stem - 1)
        # What was prepared is not kept a second time.
        self.program = context.program = without_weights(program, self.prepared)
        instructions = self.schedule.instructions
        self._runs = [binder.bind(instruction) for instruction in instructions]
        self._seed = next(i for i, each in enumerate(instructions) if each.kind == "seed")

    def _costs(self) -> StepCosts:
        """What the fixed rule weighs; the weights still stand in the program."""
        slots = self.schedule.slots
        sizes = (
            sum(slots[slot].bytes for slot in (one.out, *one.slots_read()))
            for one in self.schedule.instructions
        )
        return StepCosts(self.memory.peak, tuple(sizes), 2 * constant_bytes(self.program))

    def _run(
        self,
        images: Tensor,
        runs: list[Callable[[Slots], None]],
        cotangent: Cotangent | None = None,
    ) -> Slots:
        slots: Slots = [None] * len(self.schedule.slots)
        if images.dtype == torch.float16:
            images = images.float()
        slots[0] = as_stored(images)
        if images.dim() != 4:
            slots[0] = to_channels_last(slots[0])
        if cotangent is not None:
            self._run_forward(runs, slots, cotangent)
            runs = runs[self._seed + 1 :]
        for run in runs:
            run(slots)
        return slots

    def _run_forward(
        self, runs: list[Callable[[Slots], None]], slots: Slots, cotangent: Cotangent
    ) -> None:
        """The forward pass, and in place of ones the cotangent that an objective makes of it."""
        seed = self.schedule.instructions[self._seed]
        (last,) = seed.reads
        for run in runs[: self._seed]:
            run(slots)
        output = slots[last]
        assert output is not None
        g = cotangent(output)
        slots[seed.out] = to_channels_last(g) if g.dim() == 4 else g.contiguous()
        for slot in seed.frees:
            slots[slot] = None

    def delta(self, images: Tensor, cotangent: Cotangent | None = None) -> Tensor:
        """δ = Σ_a ∂Φ^a/∂x^i, or the pull-back of another cotangent at the network's output.

        Args:
            images: (N, C, H, W) or (N, C, D, H, W), channels innermost; or (N, C, T).
            cotangent: makes it from the output, of a program that ends there; None: ones.

        Returns:
            The same shape, in the activations' dtype.
        """
        result = self._run(images, self._runs, cotangent)[self.schedule.delta]
        assert result is not None
        if images.dim() == 4:
            return result
        whole = result.reshape(images.shape)
        return whole.contiguous(memory_format=compiled_layout(images))

    def pullback_of_ones(self, images: Tensor) -> Tensor:
        """The same for images in any layout, to be compared with a program's or autograd's.

        By the operators that SIGN's own steps run, with the stem's update where there is one.

        Args:
            images: (N, C, H, W).
        """
        with repeatable(images.device):
            laid_out = images.contiguous(memory_format=compiled_layout(images))
            if self.stem_weight is not None and images.dtype == torch.float32:
                return self.delta_by_stem(laid_out)
            return self.delta(laid_out)

    def delta_by_stem(self, images: Tensor, cotangent: Cotangent | None = None) -> Tensor:
        """δ by the stem's update of zeros, which takes less time than its input-backward.

        Args:
            images: (N, C, H, W), float32, channels innermost; the program begins with a stem.
            cotangent: as for `delta`.
        """
        delta = torch.zeros_like(images)
        self.update_by_stem(delta, *self.stem_cotangent(images, cotangent))
        return delta

    def update_by_stem(self, p: Tensor, g: Tensor, mask: Tensor | None, **options: Any) -> None:
        """Add the stem's input-backward to images, or to zeros.

        Args:
            p: changed in place, (N, C, H, W).
            g: the cotangent of the stem's output.
            mask: the bit mask of its activation, or None.
            **options: as for `stem_update_`.
        """
        assert self.stem_weight is not None
        stem_update_(
            p,
            g,
            self.stem_weight,
            mask=mask,
            slope=self.stem.activation.slope,
            stride=self.stem.stride,
            padding=self.stem.padding,
            dilation=self.stem.dilation,
            **options,
        )

    def stem_cotangent(
        self, images: Tensor, cotangent: Cotangent | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What the stem's update needs instead of δ: its output's cotangent and its bit mask.

        Args:
            images: (N, C, H, W), channels innermost.
            cotangent: as for `delta`.
        """
        count = self.schedule.stem
        last = self.schedule.instructions[-count]
        slots = self._run(images, self._runs[:-count], cotangent)
        g = slots[last.reads[0]]
        assert g is not None
        return g, None if last.mask is None else slots[last.mask]


def without_weights(program: Program, places: Collection[int] | None = None) -> Program:
    """A program that only says what there is to compute: some weights have a shape and no values.

    Args:
        program: the network.
        places: of the operations whose weights go; None for all.
    """
    ops = tuple(
        op.without_weights() if places is None or i in places else op
        for i, op in enumerate(program.ops)
    )
    return replace(program, ops=ops)


def stem_of_program(program: Program, place: int) -> tuple[Convolution, Tensor]:
    """The stem, and its weight as the update takes it, (KH, KW, C_in, C_out).

    Args:
        program: the network.
        place: of the stem: 0, or 1 after an affine map, whose scale is multiplied into the weight.
    """
    stem = program.ops[place]
    assert isinstance(stem, Convolution)
    weight = stem.weight
    if place == 1:
        affine = program.ops[0]
        assert isinstance(affine, Pointwise)
        if affine.scale is not None:
            weight = weight * affine.scale[:, None, None]
    return stem, weight.permute(2, 3, 1, 0).contiguous()
