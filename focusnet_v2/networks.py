"""FocusNet v2: S-Net in 3-D, localisation of small organs, their branches, and the shape auto-encoder."""
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


if TYPE_CHECKING:
    from focusnet_v2.config import Config

Kernel = tuple[int, int, int]


def build_network(config: "Config", stage: str = "adversarial") -> Any:  # noqa: ANN401  which network: the stage says
    """The network of a `Config` as a stage trains it: S-Net, FocusNet without or with branches, or the auto-encoder."""
    if stage == "backbone":
        return SNet(config.n_classes, config.width)
    if stage == "autoencoder":
        return ShapeAutoencoder(config.box_zyx, config.ae_width, config.code_length)
    branches = (config.sos_inputs, config.box_zyx) if stage == "adversarial" else (None,)
    return FocusNet(config.n_classes, config.width, config.n_small, *branches)


class FocusNet(nn.Module):
    """S-Net, a heatmap for each small organ, and (unless `sos_inputs` is None) a branch for each, in a box at its peak.

    (B, 1, Z, Y, X) -> {"logits" (B, n_classes, Z, Y, X), "heatmap" (B, n_small, Z, Y, X) in 0..1, and with branches
    "small" (B, n_small, *box_zyx) logits, "corners" (B, n_small, 3) first voxels of the boxes}.
    sos_inputs: "raw" the image alone (authors' code), "all" features, stem features, heatmap and image (paper).
    """

    def __init__(self, n_classes: int = 10, width: int = 32, n_small: int = 3, sos_inputs: str | None = "raw",
                 box_zyx: Sequence[int] = (8, 64, 64)) -> None:
        super().__init__()
        self.sos_inputs, self.box_zyx = sos_inputs, tuple(box_zyx)
        self.backbone = SNet(n_classes, width)
        self.localise = HeatmapHead(width, n_small)
        channels = 2 * width + 2 if sos_inputs == "all" else 1
        self.branches = nn.ModuleList(SmallOrganBranch(channels, width) for _ in range(n_small if sos_inputs else 0))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return self.branched(image, lambda i, box: self.branches[i](box), *self.main(image))

    def main(self, image: Tensor) -> tuple[Tensor, ...]:
        """(logits, heatmap, and what branches of "all" inputs look at, too: features, stem features)."""
        features, stem = self.backbone.features(image)
        context = (features, stem) if self.sos_inputs == "all" else ()
        return self.backbone.head(features), self.localise(features), *context

    def branched(self, image: Tensor, branch: Callable[[int, Tensor], Tensor], logits: Tensor, heatmap: Tensor,
                 *context: Tensor) -> dict[str, Tensor]:
        """The outputs, from those of `main`; branch: (number of a small organ, its box) -> logits."""
        outputs = {"logits": logits, "heatmap": heatmap}
        if self.branches:
            outputs["corners"] = box_corners(heatmap, self.box_zyx)
            small = []
            for i in range(len(self.branches)):
                inputs = torch.cat([*context, heatmap[:, i:i + 1], image], dim=1).detach() if context else image
                small.append(branch(i, cut_boxes(inputs, outputs["corners"][:, i], self.box_zyx)))
            outputs["small"] = torch.cat(small, dim=1)
        return outputs


class MainPart(nn.Module):
    """`FocusNet.main` as a network."""

    def __init__(self, network: FocusNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return self.network.main(image)


def box_corners(heatmap: Tensor, box_zyx: Sequence[int]) -> Tensor:
    """First voxels (B, C, 3) of the boxes around the peak of each map (B, C, Z, Y, X), moved to lie inside."""
    shape = torch.tensor(heatmap.shape[2:], device=heatmap.device)
    box = torch.tensor(box_zyx, device=heatmap.device)
    peak = heatmap.flatten(2).argmax(2)
    centre = torch.stack([peak // (shape[1] * shape[2]), peak // shape[2] % shape[1], peak % shape[2]], dim=-1)
    return (centre - box // 2).clamp_min(0).minimum(shape - box)


def cut_boxes(volume: Tensor, corners: Tensor, box_zyx: Sequence[int]) -> Tensor:
    """The box of each sample: volume (B, C, Z, Y, X), corners (B, 3) -> (B, C, *box_zyx)."""
    z, y, x = box_zyx
    return torch.stack([sample[:, k:k + z, j:j + y, i:i + x] for sample, (k, j, i) in zip(volume, corners.tolist())])


class EncoderDecoder(nn.Module):
    """What S-Net and the branches share: three levels, DenseASPP at the deepest, lateral connections.

    Z must be even, Y and X divisible by 4. entry: the layers at full resolution, width: their channels.
    """

    def __init__(self, entry: nn.Module, width: int, deepest: Sequence[nn.Module], dilations: Sequence[int],
                 n_out: int) -> None:
        super().__init__()
        mid, deep = 3 * width // 2, 2 * width
        self.entry = entry
        self.down1 = nn.Sequential(SEResidualBlock(width, mid), SEResidualBlock(mid, mid))
        self.down2 = nn.Sequential(SEResidualBlock(mid, deep), SEResidualBlock(deep, deep), *deepest)
        self.aspp = DenseASPP(deep, width, dilations)
        self.lateral1 = nn.Conv3d(mid, mid, 3, padding=1)
        self.up1 = SEResidualBlock(mid + deep + len(dilations) * width, mid)
        self.lateral2 = nn.Conv3d(width, width, 3, padding=1)
        self.up2 = SEResidualBlock(width + mid, width)
        self.head = nn.Conv3d(width, n_out, 1)

    def features(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(features before the head, features of the entry), both (B, width, Z, Y, X)."""
        e1 = self.entry(x)
        e2 = self.down1(F.max_pool3d(e1, (1, 2, 2)))
        x = self.aspp(self.down2(F.max_pool3d(e2, 2)))
        x = self.up1(torch.cat([self.lateral1(e2), upsample(x, (2, 2, 2))], dim=1))
        return self.up2(torch.cat([self.lateral2(e1), upsample(x, (1, 2, 2))], dim=1)), e1

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x)[0])


class SNet(EncoderDecoder):
    """The main network: logits (B, n_classes, Z, Y, X) of CTs (B, 1, Z, Y, X)."""

    def __init__(self, n_classes: int = 10, width: int = 32) -> None:
        deepest = [SEResidualBlock(2 * width, 2 * width, dilation=2) for _ in range(2)]
        super().__init__(stem(1, width), width, deepest, (3, 6, 12, 18), n_classes)


class SmallOrganBranch(EncoderDecoder):
    """One small organ in its box: logits (B, 1, Z, Y, X) of (B, channels, Z, Y, X)."""

    def __init__(self, channels: int = 1, width: int = 32) -> None:
        narrow = 3 * width // 4
        entry = nn.Sequential(stem(channels, narrow), SEResidualBlock(narrow, width), SEResidualBlock(width, width))
        super().__init__(entry, width, [], (3, 5, 7, 9), 1)
        start_low(self.head)


class HeatmapHead(nn.Module):
    """Where the small organs are: (B, width, Z, Y, X) -> (B, n_small, Z, Y, X) in 0..1."""

    def __init__(self, width: int = 32, n_small: int = 3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm3d(width), nn.ReLU(inplace=True), nn.Conv3d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm3d(width), nn.ReLU(inplace=True), nn.Conv3d(width, width, 3, padding=1, bias=False),
            start_low(nn.Conv3d(width, n_small, 1)), nn.Sigmoid())

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(features)


class SEResidualBlock(nn.Module):
    """Pre-activation residual block with squeeze-excitation. (B, channels, Z, Y, X) -> (B, width, Z, Y, X).

    dilation: in plane, of the second convolution.
    """

    def __init__(self, channels: int, width: int, kernel: Kernel = (3, 3, 3), dilation: int = 1,
                 reduction: int = 2) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm3d(channels)
        self.conv1 = conv(channels, width, kernel)
        self.norm2 = nn.BatchNorm3d(width)
        self.conv2 = conv(width, width, kernel, dilation)
        self.gate = nn.Sequential(nn.Conv3d(width, width // reduction, 1), nn.ReLU(),
                                  nn.Conv3d(width // reduction, width, 1), nn.Sigmoid())
        self.shortcut = nn.Identity() if channels == width else nn.Sequential(
            nn.BatchNorm3d(channels), nn.ReLU(inplace=True), nn.Conv3d(channels, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return y * self.gate(y.mean((2, 3, 4), keepdim=True)) + self.shortcut(x)


class DenseASPP(nn.Module):
    """Units dilated in plane, each seeing the concatenation, newest first, of all before it.

    (B, C, Z, Y, X) -> (B, C + units * growth, Z, Y, X).
    """

    def __init__(self, channels: int, growth: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(nn.BatchNorm3d(channels + i * growth), nn.ReLU(inplace=True),
                          nn.Conv3d(channels + i * growth, 2 * growth, 1),
                          nn.BatchNorm3d(2 * growth), nn.ReLU(inplace=True),
                          conv(2 * growth, growth, (3, 3, 3), dilation, bias=True))
            for i, dilation in enumerate(dilations))

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = torch.cat([unit(x), x], dim=1)
        return x


class ShapeAutoencoder(nn.Module):
    """What masks of small organs look like: (B, 1, *box_zyx) in 0..1 -> (reconstruction, code, feature 1, feature 2).

    code (B, code_length); feature 1 (B, 2 * width, *box / 4), feature 2 (B, width, *box / 2): of the decoder.
    Always in float32: in bfloat16 on CPUs gradients of its strided convolutions became NaN (PyTorch 2.13).
    """

    def __init__(self, box_zyx: Sequence[int] = (8, 64, 64), width: int = 64, code_length: int = 512) -> None:
        super().__init__()
        self.deepest = (4 * width, *(side // 8 for side in box_zyx))
        self.encoder = nn.Sequential(conv_norm(1, width, 2), conv_norm(width, 2 * width, 2),
                                     conv_norm(2 * width, 2 * width, 1), conv_norm(2 * width, 4 * width, 2))
        n_deepest = torch.Size(self.deepest).numel()
        self.to_code, self.from_code = nn.Linear(n_deepest, code_length), nn.Linear(code_length, n_deepest)
        self.decoder1 = nn.Sequential(conv_norm(4 * width, 2 * width, 1), conv_norm(2 * width, 2 * width, 1))
        self.decoder2 = conv_norm(2 * width, width, 1)
        self.last = start_low(nn.Conv3d(width, 1, 5, padding=2))
        # Faster on CPUs: tests.bench.focusnet_shapes.
        self.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's types lack it

    def forward(self, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        with torch.autocast(mask.device.type, enabled=False):
            code = self.encode(mask.float())
            logits, feature1, feature2 = self.decode(code)
            return logits.sigmoid(), code, feature1, feature2

    def encode(self, mask: Tensor) -> Tensor:
        """(B, 1, *box_zyx) -> (B, code_length)."""
        return self.to_code(self.encoder(mask).flatten(1))

    def decode(self, code: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(mask logits, feature 1, feature 2) of a code."""
        x = F.relu(self.from_code(code)).unflatten(1, self.deepest)
        feature1 = self.decoder1(upsample(x, (2, 2, 2)))
        feature2 = self.decoder2(upsample(feature1, (2, 2, 2)))
        return self.last(upsample(feature2, (2, 2, 2))), feature1, feature2


def stem(channels: int, width: int) -> nn.Sequential:
    """The first layers: all in plane."""
    return nn.Sequential(conv(channels, width, (1, 3, 3)), nn.ReLU(inplace=True),
                         SEResidualBlock(width, width, (1, 3, 3), reduction=4))


def conv(channels: int, width: int, kernel: Kernel, dilation: int = 1, bias: bool = False) -> nn.Conv3d:
    """Convolution that keeps the size; dilated in plane."""
    z, y, x = kernel
    padding = (z // 2, dilation * (y // 2), dilation * (x // 2))
    return nn.Conv3d(channels, width, kernel, padding=padding, dilation=(1, dilation, dilation), bias=bias)


def conv_norm(channels: int, width: int, stride: int) -> nn.Sequential:
    """Convolution 5x5x5, batch norm, ReLU."""
    return nn.Sequential(nn.Conv3d(channels, width, 5, stride, padding=2), nn.BatchNorm3d(width), nn.ReLU(inplace=True))


def start_low(layer: nn.Conv3d, share: float = 0.05) -> nn.Conv3d:
    """A new layer whose sigmoid begins at `share`. The targets are almost empty: from 0.5 squared error would empty the
    outputs first, where the sigmoid has next to no slope, and the way back takes thousands of steps."""
    assert layer.bias is not None
    nn.init.constant_(layer.bias, math.log(share / (1 - share)))
    return layer


def leave_out(head: nn.Conv3d, classes: Sequence[int]) -> None:
    """Of a last layer before a softmax, classes whose probability is 0, and stays so: no gradient reaches them."""
    assert head.bias is not None
    with torch.no_grad():
        head.weight[classes], head.bias[classes] = 0, -1e4


def upsample(x: Tensor, scale_zyx: Sequence[float]) -> Tensor:
    """Trilinear, corners aligned."""
    return F.interpolate(x, scale_factor=scale_zyx, mode="trilinear", align_corners=True)
