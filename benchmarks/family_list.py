"""Fifty families of timm, each by a small member, made smaller so that it takes seconds.

The options are those of the families' own constructors. Every kind of block occurs: fewer blocks of
each stage, smaller images, narrower layers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


@dataclass(frozen=True)
class Member:
    """A network that stands for its family.

    Attributes:
        name: timm's.
        pixels: height and width of an image.
        options: for `timm.create_model`.
        blocks: how many of each sequence of blocks are kept, where no option says so; None keeps
            all.
        layer: whose output Φ is, where the network has several classifiers.
    """

    name: str
    pixels: int = 64
    options: dict[str, Any] = field(default_factory=dict)
    blocks: int | None = None
    layer: str | None = None


def _two(**options: Any) -> dict[str, Any]:
    return {"depth": 2, **options}


FAMILIES: dict[str, Member] = {
    # Transformers, and hybrids of convolution and attention.
    "vit": Member("vit_tiny_patch16_224", 64, _two(img_size=64)),
    "swin": Member("swin_tiny_patch4_window7_224", 56, {"img_size": 56, "depths": (2, 1, 1, 1)}),
    "deit3": Member("deit3_small_patch16_224", 64, _two(img_size=64, embed_dim=96, num_heads=3)),
    "beit": Member("beit_base_patch16_224", 64, _two(img_size=64, embed_dim=96, num_heads=3)),
    "eva02": Member("eva02_tiny_patch14_224", 56, _two(img_size=56, num_classes=10)),
    "cait": Member("cait_xxs24_224", 64, _two(img_size=64)),
    "xcit": Member("xcit_nano_12_p16_224", 64, _two(img_size=64)),
    "swinv2": Member("swinv2_tiny_window8_256", 64, {"img_size": 64, "depths": (2, 1, 1, 1)}),
    "pvt_v2": Member("pvt_v2_b0", 64, {"depths": (1, 1, 1, 1)}),
    "twins": Member("twins_svt_small", 64, {"img_size": 64, "depths": (1, 1, 2, 1)}),
    "coat": Member("coat_lite_tiny", 64, {"img_size": 64, "serial_depths": (1, 1, 1, 1)}),
    "crossvit": Member("crossvit_9_240", 240, {"depth": ((1, 1, 0),)}, layer="norm.0"),
    "maxvit": Member("maxvit_pico_rw_256", 64, {"img_size": 64}),
    "coatnet": Member("coatnet_nano_rw_224", 64, {"img_size": 64}),
    "levit": Member("levit_128s", 64, {"img_size": 64, "depth": (1, 1, 1)}, layer="head.bn"),
    "pit": Member("pit_ti_224", 64, {"img_size": 64, "depth": (1, 1, 1)}),
    "volo": Member("volo_d1_224", 64, {"img_size": 64}, blocks=1, layer="norm"),
    "davit": Member("davit_tiny", 56, {"depths": (1, 1, 1, 1)}),
    "gcvit": Member("gcvit_xxtiny", 64, {"img_size": 64}, blocks=2),
    "nextvit": Member("nextvit_small", 64),
    "tiny_vit": Member("tiny_vit_5m_224", 64, {"depths": (1, 1, 1, 1)}),
    "mobilevit": Member("mobilevit_xxs", 64),
    "mobilevitv2": Member("mobilevitv2_050", 64),
    "edgenext": Member("edgenext_xx_small", 64),
    "efficientformer": Member("efficientformer_l1", 224, {"depths": (1, 1, 1, 2)}),
    "efficientvit (MIT)": Member("efficientvit_b0", 64),
    "efficientvit (MSRA)": Member("efficientvit_m0", 64, {"img_size": 64}),
    "fastvit": Member("fastvit_t8", 64, {"layers": (1, 1, 1, 1)}),
    "caformer": Member("caformer_s18", 64, blocks=1),
    "visformer": Member("visformer_tiny", 64, {"img_size": 64, "depth": (1, 1, 1)}),
    # Networks on tokens without attention.
    "mixer": Member("mixer_s32_224", 64, {"img_size": 64}, blocks=2),
    "gmlp": Member("gmlp_ti16_224", 64, {"img_size": 64}, blocks=2),
    "resmlp": Member("resmlp_12_224", 64, {"img_size": 64}, blocks=2),
    "convmixer": Member("convmixer_768_32", 64, blocks=2),
    "sequencer2d": Member("sequencer2d_s", 64, {"layers": (1, 1, 1, 1)}),
    "poolformer": Member("poolformer_s12", 64, blocks=1),
    "focalnet": Member("focalnet_tiny_srf", 64, blocks=1),
    # Convolutional networks.
    "convnextv2": Member("convnextv2_atto", 64, {"depths": (1, 1, 1, 1)}),
    "mambaout": Member("mambaout_femto", 64, {"depths": (1, 1, 1, 1)}),
    "hrnet": Member("hrnet_w18_small", 64),
    "dla": Member("dla46_c", 64),
    "dpn": Member("dpn48b", 64),
    "vovnet": Member("ese_vovnet19b_slim", 64),
    "res2net": Member("res2net50_14w_8s", 64, {"layers": (1, 1, 1, 1)}),
    "resnest": Member("resnest14d", 64),
    "sknet": Member("skresnet18", 64, {"layers": (1, 1, 1, 1)}),
    "nfnet": Member("nf_regnet_b0", 64),
    "tresnet": Member("tresnet_m", 64, {"layers": (1, 1, 1, 1)}),
    "hgnet": Member("hgnetv2_b0", 64),
    "ghostnetv2": Member("ghostnetv2_100", 64),
}


def build(member: Member) -> nn.Module:
    """A member in evaluation mode, with weights as varied as training leaves them.

    Fresh networks hide errors: a LayerScale of 1e-6 or a last BatchNorm of 0 switches a branch off,
    and a position bias of 0 adds nothing.

    Args:
        member: What to build.
    """
    import timm

    torch.manual_seed(0)
    model = timm.create_model(member.name, **member.options)
    if member.blocks is not None:
        for name, module in list(model.named_modules()):
            parent, _, leaf = name.rpartition(".")
            sequence = isinstance(module, nn.Sequential | nn.ModuleList)
            if sequence and ((leaf == "blocks" and "global" not in parent) or parent == "network"):
                del module[member.blocks :]
    return varied(model).eval()


def varied(model: nn.Module) -> nn.Module:
    """Add noise to weights that are all equal, and to the statistics of BatchNorms, in place."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.is_floating_point() and bool((weight == weight.flatten()[0]).all()):
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn(buffer.shape, generator=generator))
            elif name.endswith("running_var"):
                buffer.mul_(0.5 + torch.rand(buffer.shape, generator=generator))
    return model
