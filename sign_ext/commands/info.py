"""Show what is installed and where it came from, how it was built, the devices and the backends.

With --checkpoint or --model, also what SIGN finds in that network: the source
layer Φ, the backend that would run, and why. Without --weights, a network by
--model gets new random ones.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from sign_ext.commands import console
from sign_ext.commands.networks import NetworkOptions, network_as_json, read_network
from sign_ext.commands.options import device_option
from sign_ext.commands.shared import resolve_device

EXAMPLES = (
    "sign-ext info",
    "sign-ext info --checkpoint runs/classical/model.safetensors",
    "sign-ext info --model timm:resnet18 --weights resnet18.pth --image-size 64",
    "sign-ext info --json",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(NetworkOptions):
    """Options of `sign-ext info`."""

    device: str = device_option()

    def check(self) -> None:
        """Check the network's options, if there are any."""
        if self.given():
            super().check()


def run(options: Options) -> None:
    """Gather the facts and print them."""
    from sign_ext import build_config
    from sign_ext.environment import installation, machine, versions

    device = resolve_device(options.device)
    facts: dict[str, Any] = {
        "versions": versions(),
        "installation": installation(),
        "build": _build(build_config()),
        "machine": machine(str(device)),
        "devices": _devices(),
        "backends": _backends(device),
    }
    if options.given():
        model, config = read_network(options, device, trained=False)
        if options.checkpoint is not None:
            facts["checkpoint"] = {"file": options.checkpoint, "config": config}
        facts["network"] = network_as_json(config)
        facts["sign"] = _explain(model, config, device)
    if options.json:
        console.print_json(facts)
    else:
        _print(facts)


def _build(config: dict[str, Any]) -> dict[str, Any]:
    """Add to what was built what its architectures mean: machine code for GPUs, and PTX."""
    machine_code = [arch.removesuffix("+PTX") for arch in config["arches"]]
    ptx = [arch.removesuffix("+PTX") for arch in config["arches"] if arch.endswith("+PTX")]
    return {**config, "gpu_machine_code": machine_code, "gpu_ptx": ptx}


def _explain(model: Any, config: dict[str, Any], device: Any) -> dict[str, Any]:
    """Explain what SIGN does with a network, using an image of noise."""
    import torch

    from sign_ext import SignTransform

    generator = torch.Generator().manual_seed(0)
    image = 255 * torch.rand(1, *config["model"]["image_shape"], generator=generator)
    return SignTransform(model).explain(image.to(device)).to_dict()


def _devices() -> list[str]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return ["cpu", *(f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(count))]


def _backends(device: Any) -> dict[str, str]:
    """Return for each backend whether it can run on `device`, and why or why not."""
    from sign_ext.engine.backends import choose
    from sign_ext.errors import BackendError
    from sign_ext.settings import BACKENDS

    answers = {}
    for name in BACKENDS:
        try:
            choice = choose(name, device)
        except BackendError as error:
            answers[name] = f"no: {error}"
        else:
            answers[name] = f"yes: {choice.backend}, {choice.reason}" if name == "auto" else "yes"
    return answers


def _print(facts: dict[str, Any]) -> None:
    from rich.table import Table

    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for section in ("versions", "installation", "build", "machine", "backends", "network", "sign"):
        if section not in facts:
            continue
        table.add_row(section, "")
        for key, value in facts[section].items():
            table.add_row(f"  {key}", _text(value))
    table.add_row("devices", ", ".join(facts["devices"]))
    console.print_rich(table)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(each)}" for key, each in value.items()) or "none"
    if isinstance(value, list | tuple):
        texts = [_text(each) for each in value]
        # One a line where a comma would not separate them.
        return ("\n" if any(", " in text for text in texts) else ", ").join(texts) or "none"
    return "none" if value is None else str(value)
