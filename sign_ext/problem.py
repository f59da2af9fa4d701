"""What a call of SIGN is about: Φ, found and checked on the call's first image, before any step."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sign_ext.engine.batch import DEFAULT_BATCH
from sign_ext.engine.kept import Kept
from sign_ext.engine.known_layer import KnownLayer, look_again
from sign_ext.engine.trajectory import Problem
from sign_ext.errors import SignError, first_line
from sign_ext.model_inputs import NO_INPUTS, ModelInputs, blaming_inputs
from sign_ext.network_state import weights_versions
from sign_ext.pixel_range import check_units
from sign_ext.probe import ImageStatistics, check_samples, statistics_of
from sign_ext.settings import Settings
from sign_ext.source_layer import (
    Phi,
    SourceLayer,
    SumVariation,
    check_inputs,
    check_source,
    find_with_trail,
)

NO_TRAIL: tuple[str, ...] | None = ()  # of a layer that is asked for by name


class Found(NamedTuple):
    """What a call has to solve, and where Φ is read.

    Attributes:
        problem: what the engines solve.
        source: where Φ is read.
        varies: how much the sum over Φ varies; if it does not, SIGN changes nothing.
    """

    problem: Problem
    source: SourceLayer
    varies: SumVariation


class Problems:
    """Finds what calls of one transform are about.

    Args:
        network: Φ and its classifier, unwrapped.
        settings: the transform's.
        named: the source layer asked for by name, or None.
    """

    def __init__(self, network: nn.Module, settings: Settings, named: SourceLayer | None) -> None:
        """Find nothing yet."""
        self._network = network
        self.settings = settings
        self._named = named

    def find(
        self,
        kept: Kept,
        images: Tensor,
        dtype: torch.dtype,
        inputs: ModelInputs = NO_INPUTS,
        settings: Settings | None = None,
    ) -> Found:
        """The problem for images like these.

        Φ is found and checked on one image of each call: the network may have changed since. So
        are the independence of samples, and the images' units.

        Args:
            kept: what was found out about the network and is kept between calls.
            images: (N, ...), the call's.
            dtype: that the network is run in.
            inputs: what else the network takes.
            settings: the call's, where they differ from the transform's.

        Raises:
            SourceLayerError: Φ cannot be found, or has no gradient to the images.
            ValueError: samples interact, or the network's weights are not finite.
        """
        with torch.autocast(images.device.type, enabled=False):
            like = statistics_of(images)
            about = (settings or self.settings, images, dtype)
            found = None if inputs else self._known_problem(kept, *about, like)
            found = found or self._new_problem(kept, *about, inputs, like)
            problem, source = found.problem, found.source
            structure = kept.structure
            state = (structure.key(problem), weights_versions(self._network), inputs.key)

            def phi_for(count: int) -> Phi:
                """Φ for as many images, which all have the first one's further inputs."""
                return Phi(self._network, source, inputs[[0] * count])

            image = torch.empty_like(images[:1], dtype=dtype).copy_(images[:1])
            check_samples(phi_for, image, like, state)

            def run(image: Tensor) -> Tensor:
                with structure.running():
                    return problem.phi(image)

            check_units(self._network, run, images, like, dtype, place=source)
        return found

    def _kind(self, images: Tensor, dtype: torch.dtype) -> Hashable:
        """What a source layer is known for."""
        place = (self.settings.layer, self.settings.rule.reads_output)
        return (place, images.shape[1:], dtype, images.device)

    def _known_problem(
        self,
        kept: Kept,
        settings: Settings,
        images: Tensor,
        dtype: torch.dtype,
        like: ImageStatistics,
    ) -> Found | None:
        """The problem with the source layer of an earlier call, where that is still Φ's."""
        known = kept.sources.get(self._kind(images, dtype))
        if known is None:
            return None
        if known.weights is not None and known.weights != weights_versions(self._network):
            return None
        image = torch.empty_like(images[:1], dtype=dtype).copy_(images[:1])
        look = random = None
        with kept.structure.running():
            # What δ is at a random image will be asked of a program. No image of the caller's is
            # run beside it: a network that was recorded branches on no image's values.
            if kept.programs.has_any(images.shape[1:]):
                witnesses = kept.programs.witnesses
                random = witnesses.take(like, images, dtype)
                kind = self._kind(images, dtype)
                layouts = kept.sources.layouts(kind, images)
                for layout in layouts:
                    laid_out = random.contiguous(memory_format=layout)
                    place = (known.source, layout, settings.precision)
                    earlier = witnesses.look_at(random, place)
                    look = look_again(self._network, known, laid_out, earlier)
                    if look is not None:
                        witnesses.keep_look(random, place, look)
                        break
                if look is not None and layout != layouts[0]:
                    kept.sources.rule_out(kind, layouts[0])
            if look is None:  # the network may take one image at a time
                random, look = None, look_again(self._network, known, image)
        if look is None:
            return None
        witness = None if random is None else (random, look.delta)
        phi = Phi(self._network, known.source)
        problem = Problem(phi, settings, dtype, NO_INPUTS, like, witness)
        if kept.structure.key(problem) != known.structure:
            return None
        return Found(problem, known.source, known.variation)

    def _new_problem(
        self,
        kept: Kept,
        settings: Settings,
        images: Tensor,
        dtype: torch.dtype,
        inputs: ModelInputs,
        like: ImageStatistics,
    ) -> Found:
        """The problem with a source layer that is found and checked now."""
        try:
            with kept.structure.running():
                source, varies, trail = self._source(images[:1], dtype, inputs)
        except (SignError, TypeError):
            raise
        except Exception as error:  # whatever the network raises
            if inputs:
                raise
            with kept.structure.running():
                source, varies, _ = self._source_of_a_batch(images, dtype, error)
            trail = None  # one image alone cannot be asked again
        problem = Problem(Phi(self._network, source, inputs[:1]), settings, dtype, inputs, like)
        if trail is not None and not inputs:
            # A sum that is (nearly) constant may be so with these weights only.
            weights = weights_versions(self._network) if varies.doubt(source) else None
            known = KnownLayer(kept.structure.key(problem), source, trail, varies, weights)
            kept.sources.put(self._kind(images, dtype), known)
        return Found(problem, source, varies)

    def _source(
        self, few: Tensor, dtype: torch.dtype, inputs: ModelInputs = NO_INPUTS
    ) -> tuple[SourceLayer, SumVariation, tuple[str, ...] | None]:
        """Where Φ is read, found and checked on a few images; whether its sum varies; its trail.

        Further inputs are those of a call, whose first image is given.
        """
        probe = torch.empty_like(few, dtype=dtype).copy_(few)
        with blaming_inputs(self._network, inputs, probe):
            kwargs = inputs[:1]
            if self._named is not None:
                source, trail = self._named, NO_TRAIL
            else:
                source, trail = find_with_trail(self._network, probe, kwargs)
            varies = check_source(self._network, source, probe, kwargs)
        check_inputs(self._network, source, probe, inputs)
        return source, varies, trail

    def _source_of_a_batch(
        self, images: Tensor, dtype: torch.dtype, error: Exception
    ) -> tuple[SourceLayer, SumVariation, tuple[str, ...] | None]:
        """The same on a whole batch, where one image alone raised `error`.

        A network that was exported or traced may take batches of one size only.
        """
        size = min(self.settings.batch_size or DEFAULT_BATCH, len(images))
        hint = "pass batch_size=B and a multiple of B images if the network takes B at a time"
        if size == 1:
            error.add_note(f"The network was run on one image: {hint}")
            raise error
        try:
            found = self._source(images[:size], dtype)
        except SignError:
            raise
        except Exception as failed:
            failed.add_note(f"The network was run on one image, then on {size} images: {hint}")
            raise failed from None
        if rest := len(images) % size:
            try:
                self._source(images[:rest], dtype)
            except Exception as failed:
                raise ValueError(
                    f"the network runs on {size} images but not on the last batch of these "
                    f"{len(images)}, which has {rest} ({first_line(failed)}): {hint}"
                ) from failed
        return found
