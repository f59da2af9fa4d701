"""DeepAugment: learned policies of operations, applied to batches and kept in YAML files."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from sign_ext.augment.operations import UNIFORMS, Operation
from sign_ext.files import write_whole

SUB_POLICIES = 5  # in a policy, as in AutoAugment and DeepAugment

_HEADER = """\
# DeepAugment policies: each image draws one of all sub-policies and gets its two operations.
# Magnitudes are in [0, 1]; sign_ext/augment/operations.py says what each operation does at 1.
"""


@dataclass(frozen=True)
class SubPolicy:
    """Two operations, one after the other.

    Args:
        first: applied to the image.
        second: applied to the output of the first.
    """

    first: Operation
    second: Operation

    def __post_init__(self) -> None:
        """Check that both are operations."""
        for name in ("first", "second"):
            if not isinstance(getattr(self, name), Operation):
                raise TypeError(f"{name} must be an Operation; got {getattr(self, name)!r}.")


@dataclass(frozen=True)
class Policy:
    """Five sub-policies; each image gets one of them.

    Args:
        sub_policies: exactly five.

    Raises:
        TypeError: one of them is not a SubPolicy.
        ValueError: there are not five.
    """

    sub_policies: tuple[SubPolicy, ...]

    def __post_init__(self) -> None:
        """Check their number and type."""
        object.__setattr__(self, "sub_policies", tuple(self.sub_policies))
        for i, sub_policy in enumerate(self.sub_policies):
            if not isinstance(sub_policy, SubPolicy):
                raise TypeError(f"sub_policies[{i}] must be a SubPolicy; got {sub_policy!r}.")
        if len(self.sub_policies) != SUB_POLICIES:
            raise ValueError(
                f"sub_policies holds {len(self.sub_policies)}; accepted: exactly {SUB_POLICIES}."
            )


@dataclass(frozen=True)
class DeepAugment:
    """Apply learned policies: each image gets one of all their sub-policies, drawn at random.

    The paper's reference [18], a Bayesian version of AutoAugment. Images that draw the same
    sub-policy are processed together, on their device.

    Args:
        policies: one or more, from `search_policies` or `load_policies`.

    Raises:
        TypeError: one of them is not a Policy.
        ValueError: there are none.

    Example:
        >>> pair = SubPolicy(Operation("rotate", 0.4), Operation("cutout", 0.5))
        >>> augment = DeepAugment((Policy((pair,) * 5),))
        >>> images, labels = torch.rand(4, 3, 8, 8) * 255, torch.arange(4)
        >>> augment(images, labels, torch.Generator().manual_seed(0))[0].shape
        torch.Size([4, 3, 8, 8])
    """

    policies: tuple[Policy, ...]

    def __post_init__(self) -> None:
        """Check the policies."""
        object.__setattr__(self, "policies", tuple(self.policies))
        for i, policy in enumerate(self.policies):
            if not isinstance(policy, Policy):
                raise TypeError(f"policies[{i}] must be a Policy; got {policy!r}.")
        if not self.policies:
            raise ValueError("policies is empty: give at least one Policy.")

    @property
    def sub_policies(self) -> tuple[SubPolicy, ...]:
        """The sub-policies of all policies, from which an image draws one."""
        return tuple(sub for policy in self.policies for sub in policy.sub_policies)

    def __call__(
        self, images: Tensor, labels: Tensor, generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """Return the batch with each image changed by its own sub-policy.

        Args:
            images: float32 (N, 3, H, W), pixel units 0–255 or beyond; never modified.
            labels: (N,) or (N, classes), returned unchanged.
            generator: on the CPU or on the images' device. The same generator state gives the same
                draws whichever device the images are on.

        Returns:
            A new float32 (N, 3, H, W) tensor, and labels.
        """
        drawn, uniform = self.draw(len(images), generator)
        uniform = uniform.to(images.device)
        changed = images.clone()
        for i in drawn.unique().tolist():
            members = (drawn == i).nonzero()[:, 0].to(images.device)
            sub_policy, numbers = self.sub_policies[i], uniform[members]
            group = sub_policy.first(images[members], numbers[:, :UNIFORMS], generator)
            changed[members] = sub_policy.second(group, numbers[:, UNIFORMS:], generator)
        return changed, labels

    def draw(self, count: int, generator: Generator) -> tuple[Tensor, Tensor]:
        """Draw the sub-policies of `count` images, and the numbers for their operations.

        The number of draws does not depend on the operations; only noise draws more, afterwards.

        Returns:
            int64 (N,) on the CPU, positions in `sub_policies`; float32 (N, 2·UNIFORMS) in [0, 1)
            on the generator's device.
        """
        device = generator.device
        total = len(self.sub_policies)
        drawn = torch.randint(total, (count,), generator=generator, device=device)
        uniform = torch.rand(count, 2 * UNIFORMS, generator=generator, device=device)
        return drawn.cpu(), uniform


def save_policies(path: str | Path, policies: Iterable[Policy]) -> None:
    """Write policies to a YAML file that can be read and edited by hand.

    The file is written atomically.

    Args:
        path: of the file; an existing one is replaced. Its folder is created if needed.
        policies: one or more, best first.

    Raises:
        ValueError: there are none.

    Example:
        >>> pair = SubPolicy(Operation("rotate", 0.4), Operation("cutout", 0.5))
        >>> save_policies("policies.yaml", [Policy((pair,) * 5)])
    """
    import yaml

    content = [
        {"sub_policies": [dataclasses.asdict(sub) for sub in policy.sub_policies]}
        for policy in policies
    ]
    if not content:
        raise ValueError("policies is empty: give at least one Policy.")
    text = yaml.safe_dump({"policies": content}, sort_keys=False, default_flow_style=None)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, _HEADER + text)


def load_policies(path: str | Path) -> tuple[Policy, ...]:
    """Read policies from a YAML file.

    Args:
        path: of a file written by `save_policies`, or by hand in the same form.

    Returns:
        The policies, in the file's order.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: its content is not a list of policies; the message names the wrong entry.
    """
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path} is not a YAML file: {reason}") from error
    try:
        (policies,) = _parse_mapping("the file", content, ("policies",))
        return _parse_list("policies", policies, _parse_policy)
    except ValueError as error:
        raise ValueError(f"{path} holds no policies: {error}") from error


# `entry` is the path of a value in the file, such as policies[0].sub_policies[3].first.


def _parse_policy(entry: str, value: Any) -> Policy:
    (sub_policies,) = _parse_mapping(entry, value, ("sub_policies",))
    return _build(
        entry, Policy, _parse_list(f"{entry}.sub_policies", sub_policies, _parse_sub_policy)
    )


def _parse_sub_policy(entry: str, value: Any) -> SubPolicy:
    first, second = _parse_mapping(entry, value, ("first", "second"))
    return SubPolicy(
        _parse_operation(f"{entry}.first", first),
        _parse_operation(f"{entry}.second", second),
    )


def _parse_operation(entry: str, value: Any) -> Operation:
    name, magnitude = _parse_mapping(entry, value, ("name", "magnitude"))
    return _build(entry, Operation, name, magnitude)


def _build(entry: str, constructor: Callable[..., Any], *values: Any) -> Any:
    """Construct an object; its errors are prefixed with the entry."""
    try:
        return constructor(*values)
    except ValueError as error:
        raise ValueError(f"{entry}.{error}") from error


def _parse_mapping(entry: str, value: Any, keys: Sequence[str]) -> list[Any]:
    """Return the values of exactly these keys."""
    if not isinstance(value, dict) or set(value) != set(keys):
        got = f"the keys {', '.join(map(str, value))}" if isinstance(value, dict) else repr(value)
        raise ValueError(
            f"{entry} must be a mapping with {' and '.join(keys)}, and nothing else; got {got}."
        )
    return [value[key] for key in keys]


def _parse_list(entry: str, value: Any, parse: Callable[[str, Any], Any]) -> tuple[Any, ...]:
    """Parse the items of a list that is not empty."""
    if not isinstance(value, list) or not value:
        raise ValueError(f"{entry} must be a list with at least one entry; got {value!r}.")
    return tuple(parse(f"{entry}[{i}]", item) for i, item in enumerate(value))
