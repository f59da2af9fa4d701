"""NASNet-A (4 @ 1056), "NASNetMobile", from timm's cells: the paper's network for Table 4."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

STEM = 32
STAGES = 3
# The first convolution is unpadded; everything after it keeps at least one pixel.
SMALLEST = 3


def nasnet_mobile(
    num_classes: int,
    image_shape: tuple[int, int, int],
    *,
    dropout: float = 0.0,
    repeats: int = 4,
    filters: int = 44,
) -> nn.Module:
    """Build NASNet-A Mobile with new weights.

    The ImageNet stem, whose two cells have a quarter and a half of ``filters``, and three stages of
    ``repeats`` cells with once, twice and four times ``filters``, separated by reduction cells. The
    last features are 1/32 of the image, so 1×1 at 32×32.

    Args:
        num_classes: number of logits.
        image_shape: (C, H, W), at least 3×3 pixels; the published size is 224×224.
        dropout: drop probability before the classifier, 0 ≤ p < 1 (published: 0.5).
        repeats: cells a stage, 1 or more; 4 as published.
        filters: of the first stage's cells, a multiple of 4; 44 as published. The classifier sees
            24 times as many features.

    Returns:
        A module of timm's cells, without the published auxiliary classifier, which adds a second
        loss when training on ImageNet.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: an option out of range, or too small an image.

    Source: Zoph et al., "Learning Transferable Architectures for Scalable Image Recognition",
    2018. The paper's figure leaves open which two cells the first cell of a stage reads: here, as
    in its authors' mobile configuration, the reduction cell and the cell before that (in their
    large network, which timm has, the reduction cell and the cell two before it).

    Example:
        >>> sum(p.numel() for p in nasnet_mobile(1000, (3, 224, 224)).parameters())
        5289978
    """
    if isinstance(repeats, bool) or not isinstance(repeats, int) or repeats < 1:
        raise ValueError(f"repeats={repeats!r}; accepted: an integer of 1 or more, 4 as published.")
    if not isinstance(filters, int) or filters < 4 or filters % 4:
        raise ValueError(
            f"filters={filters!r}; accepted: a multiple of 4 (the stem's first cell has a quarter "
            "as many), 44 as published."
        )
    if min(image_shape[1:]) < SMALLEST:
        raise ValueError(
            f"image_shape={image_shape} is too small for nasnet_mobile, whose first convolution "
            f"is unpadded; accepted: at least {SMALLEST}×{SMALLEST} pixels. Use a larger "
            "image_size."
        )
    return NasNetA(num_classes, image_shape[0], dropout=dropout, repeats=repeats, filters=filters)


class NasNetA(nn.Module):
    """A stem, stages of cells that each read the two outputs before them, and a classifier.

    Args:
        num_classes: number of logits.
        channels: of the images.
        dropout: drop probability before the classifier.
        repeats: cells a stage.
        filters: of the first stage.
    """

    def __init__(
        self, num_classes: int, channels: int, *, dropout: float, repeats: int, filters: int
    ) -> None:
        """Build the cells, each for the channels of the two outputs that it reads."""
        from timm.layers import ConvNormAct
        from timm.models import nasnet

        super().__init__()
        self.conv0 = ConvNormAct(
            channels,
            STEM,
            kernel_size=3,
            stride=2,
            padding=0,
            norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.1),
            apply_act=False,
        )
        self.cell_stem_0 = nasnet.CellStem0(STEM, num_channels=filters // 4, pad_type="same")
        self.cell_stem_1 = nasnet.CellStem1(STEM, num_channels=filters // 2, pad_type="same")
        # A stem or reduction cell concatenates 4 branches of its width, any other cell 6.
        before, last = filters, 2 * filters
        self.cells = nn.ModuleList()
        for stage in range(STAGES):
            width = filters * 2**stage
            if stage:
                reduction = nasnet.ReductionCell0 if stage == 1 else nasnet.ReductionCell1
                self.cells.append(reduction(before, width, last, width, pad_type="same"))
                before, last = last, 4 * width
            cell: nn.Module
            for repeat in range(repeats):
                if repeat:
                    cell = nasnet.NormalCell(before, width, last, width, pad_type="same")
                else:  # the output before the reduction cell has twice the height and width
                    cell = nasnet.FirstCell(before, width // 2, last, width, pad_type="same")
                self.cells.append(cell)
                before, last = last, 6 * width
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits.

        Args:
            images: float (N, C, H, W), normalised.

        Returns:
            (N, num_classes).
        """
        stem = self.conv0(images)
        before = self.cell_stem_0(stem)
        last = self.cell_stem_1(stem, before)
        for cell in self.cells:
            before, last = last, cell(last, before)
        features: Tensor = self.flatten(self.pool(self.act(last)))
        return self.classifier(self.dropout(features))  # type: ignore[no-any-return]
