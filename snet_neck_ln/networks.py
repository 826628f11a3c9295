"""S-Net, 2-D: the paper's figure, and the authors' code where the two differ (axial attention)."""
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from snet_neck_ln.config import Config


def build_network(config: "Config") -> "SNet":
    """The network that a `Config` describes, with 2 * context_slices + 1 input channels."""
    return SNet(2 * config.context_slices + 1, config.axial_layout)


class SNet(nn.Module):
    """Slices (B, C, Y, X), Y and X divisible by 4 -> logits (main, a, b), each (B, 1, Y, X).

    a and b are the side maps of the coarser and the finer reverse-attention stage, at the size of the input.
    """

    def __init__(self, in_channels: int = 1, axial_layout: str = "original") -> None:
        super().__init__()
        self.stem = nn.Sequential(conv3x3(in_channels, 32), nn.ReLU(inplace=True), SEResidualBlock(32, 32, reduction=4))
        self.down1 = nn.Sequential(SEResidualBlock(32, 48), SEResidualBlock(48, 48))
        self.down2 = nn.Sequential(SEResidualBlock(48, 64), SEResidualBlock(64, 64))
        self.dilated = nn.Sequential(SEResidualBlock(64, 64, dilation=2), SEResidualBlock(64, 64, dilation=2))
        self.aspp = DenseASPP(64, 32, dilations=(3, 6, 12, 18))
        self.decoder1 = Decoder(192, 48, axial_layout)
        self.decoder2 = Decoder(48, 32, axial_layout)
        self.head = nn.Conv2d(32, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        e1, e2, deepest = self._encode(x)
        decoded, a = self.decoder1(deepest, e2)
        decoded, b = self.decoder2(decoded, e1)
        return self.head(decoded), F.interpolate(a, scale_factor=2, mode="bilinear", align_corners=False), b

    def main(self, x: Tensor) -> Tensor:
        """The main map only: the side maps matter in training alone."""
        e1, e2, deepest = self._encode(x)
        decoded = self.decoder1.join(*self.decoder1.inputs(deepest, e2))
        return self.head(self.decoder2.join(*self.decoder2.inputs(decoded, e1)))

    def _encode(self, x):
        e1 = self.stem(x)
        e2 = self.down1(F.max_pool2d(e1, 2))
        return e1, e2, self.aspp(self.dilated(self.down2(F.max_pool2d(e2, 2))))


class MainMap(nn.Module):
    """`SNet.main` as a network: (B, C, Y, X) -> logits (B, 1, Y, X)."""

    def __init__(self, network: SNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        return self.network.main(x)


class SEResidualBlock(nn.Module):
    """Pre-activation residual block with squeeze-and-excitation. (B, C, Y, X) -> (B, width, Y, X)."""

    def __init__(self, channels: int, width: int, dilation: int = 1, reduction: int = 2) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv1 = conv3x3(channels, width)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, dilation)
        self.gate = nn.Sequential(nn.Conv2d(width, width // reduction, 1), nn.ReLU(),
                                  nn.Conv2d(width // reduction, width, 1), nn.Sigmoid())
        self.shortcut = nn.Identity() if channels == width else nn.Sequential(
            nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.Conv2d(channels, width, 1, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.norm1(x), inplace=True))
        y = self.conv2(F.relu(self.norm2(y), inplace=True))
        return y * self.gate(y.mean((2, 3), keepdim=True)) + self.shortcut(x)


class DenseASPP(nn.Module):
    """Dilated units; the input of each is the concatenation of all before it, newest first.

    (B, C, Y, X) -> (B, C + units * growth, Y, X).
    """

    def __init__(self, channels: int, growth: int, dilations: Sequence[int]) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            nn.Sequential(nn.BatchNorm2d(channels + i * growth), nn.ReLU(inplace=True),
                          nn.Conv2d(channels + i * growth, 64, 1), nn.BatchNorm2d(64), nn.ReLU(inplace=True),
                          nn.Conv2d(64, growth, 3, padding=dilation, dilation=dilation))
            for i, dilation in enumerate(dilations))

    def forward(self, x: Tensor) -> Tensor:
        for unit in self.units:
            x = torch.cat([unit(x), x], dim=1)
        return x


class Decoder(nn.Module):
    """Upsample, join with the lateral connection, and make a side map by reverse attention.

    deep (B, C, Y/2, X/2), skip (B, width, Y, X) -> (B, width, Y, X), side logits (B, 1, Y, X).
    """

    def __init__(self, channels: int, width: int, axial_layout: str) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(width, width, 3, padding=1)
        self.block = SEResidualBlock(width + channels, width)
        self.attention = ReverseAxialAttention(channels, width, axial_layout)

    def forward(self, deep: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        up, lateral = self.inputs(deep, skip)
        return self.join(up, lateral), self.attention(up, lateral)

    def inputs(self, deep: Tensor, skip: Tensor) -> tuple[Tensor, Tensor]:
        """(`deep` at the size of `skip`, the lateral connection)."""
        return F.interpolate(deep, scale_factor=2, mode="nearest"), self.lateral(skip)

    def join(self, up: Tensor, lateral: Tensor) -> Tensor:
        return self.block(torch.cat([lateral, up], dim=1))


class ReverseAxialAttention(nn.Module):
    """Refine a coarse map where it is not yet sure of a node.

    decoded (B, C, Y, X), lateral (B, width, Y, X) -> logits (B, 1, Y, X).
    """

    def __init__(self, channels: int, width: int, axial_layout: str) -> None:
        super().__init__()
        self.coarse = nn.Conv2d(channels, 1, 1)
        self.axial = nn.Sequential(nn.Conv2d(width, width, 1, bias=False), conv3x3(width, width),
                                   AxialAttention(width, "height", axial_layout),
                                   AxialAttention(width, "width", axial_layout))
        self.refine = nn.Sequential(self._conv(width, width), self._conv(width, width), self._conv(width, 1))

    def forward(self, decoded: Tensor, lateral: Tensor) -> Tensor:
        coarse = self.coarse(decoded)
        reverse = 1 - coarse.sigmoid()
        return self.refine(reverse * self.axial(lateral)) + coarse

    @staticmethod
    def _conv(channels: int, width: int) -> nn.Sequential:
        return nn.Sequential(conv3x3(channels, width), nn.BatchNorm2d(width, eps=1e-3), nn.PReLU(width))


class AxialAttention(nn.Module):
    """Attention along one axis, by sigmoid and without scaling; `gain` starts at 0. Keeps the shape (B, C, Y, X).

    layout "paper" attends along `axis`. "original" regroups the map, in memory order, into rows as long as that axis,
    as the authors' code does: on square maps both axes then attend along the width.
    """

    def __init__(self, channels: int, axis: str, layout: str = "original") -> None:
        super().__init__()
        self.axis, self.layout = axis, layout
        self.query = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.key = nn.Conv2d(channels, channels // 8, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.axis == "height" and self.layout == "paper":
            return self._attend(x.transpose(2, 3), x.shape[2]).transpose(2, 3)
        return self._attend(x, x.shape[2 if self.axis == "height" else 3])

    def _attend(self, x, length):
        query, key, value = (part(x).flatten(1).unflatten(1, (-1, length))  # (B, rows, length)
                             for part in (self.query, self.key, self.value))
        weight = (query.transpose(1, 2) @ key).sigmoid()  # (B, length, length)
        attended = (value @ weight.transpose(1, 2)).reshape(x.shape)
        if x.is_contiguous(memory_format=torch.channels_last):  # mixed layouts would slow down what follows
            attended = attended.contiguous(memory_format=torch.channels_last)
        return self.gain.to(attended.dtype) * attended + x


def conv3x3(channels: int, width: int, dilation: int = 1) -> nn.Conv2d:
    """3x3 convolution without bias that keeps the size."""
    return nn.Conv2d(channels, width, 3, padding=dilation, dilation=dilation, bias=False)
