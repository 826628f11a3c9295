"""SepNet and the plain 3-D U-Net that the paper compares it with."""
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from sepnet.config import Config


def build_network(config: "Config") -> "EncoderDecoder":
    """The network that a `Config` describes."""
    shape: dict[str, Any] = {"n_classes": config.n_classes, "base_channels": config.base_channels,
                             "dropout": config.dropout, "channel_dropout": config.channel_dropout}
    if config.network == "unet":
        return UNet3D(**shape)
    return SepNet(**shape, separate_direction=config.separate_direction)


class EncoderDecoder(nn.Module):
    """CTs (B, 1, Z, Y, X), sizes divisible by 8 -> class probabilities (B, n_classes, Z, Y, X), float32.

    encoder, decoder: three stages each, in the order in which they run; bottom: the stage between them.
    """

    def __init__(self, encoder: Iterable[nn.Module], bottom: nn.Module, decoder: Iterable[nn.Module], width: int,
                 n_classes: int, channel_dropout: float) -> None:
        super().__init__()
        self.encoder, self.bottom, self.decoder = nn.ModuleList(encoder), bottom, nn.ModuleList(decoder)
        self.classify = nn.Sequential(nn.ReLU(), nn.Dropout3d(channel_dropout), nn.Conv3d(width, n_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits(x).float().softmax(1)

    def logits(self, x: Tensor) -> Tensor:
        """The output before the softmax, in the precision of the convolutions."""
        skips = []
        for stage in self.encoder:
            skips.append(stage(x))
            x = F.max_pool3d(skips[-1], 2)
        with torch.autocast(x.device.type, enabled=False):
            # In bfloat16 on CPUs (PyTorch 2.13) a kernel of 3 over 2 slices gives NaN gradients.
            x = self.bottom(x.float())
        for stage in self.decoder:
            up = F.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)
            x = stage(torch.cat([up, skips.pop()], dim=1))
        return self.classify(x)


class SepNet(EncoderDecoder):
    """The U-shaped network of separable blocks. separate_direction: the plane of the in-plane convolutions."""

    def __init__(self, n_classes: int = 23, base_channels: int = 24, separate_direction: str = "axial",
                 dropout: float = 0.5, channel_dropout: float = 0.1) -> None:
        def block(channels, width):
            return SepBlock(channels * base_channels, width * base_channels, separate_direction)

        super().__init__(
            [SepBlock(1, 2 * base_channels, separate_direction), block(2, 2), block(2, 4)],
            nn.Sequential(block(4, 8), block(8, 4), nn.Dropout(dropout)),
            [nn.Sequential(block(8, 4), block(4, 2)), nn.Sequential(block(4, 2), block(2, 2)),
             nn.Sequential(block(4, 2), block(2, 2))],
            2 * base_channels, n_classes, channel_dropout)


class UNet3D(EncoderDecoder):
    """The baseline with 3x3x3 convolutions."""

    def __init__(self, n_classes: int = 23, base_channels: int = 24, dropout: float = 0.5,
                 channel_dropout: float = 0.1) -> None:
        def stage(*widths):
            return nn.Sequential(*(conv_norm(channels * base_channels, width * base_channels, (3, 3, 3))
                                   for channels, width in zip(widths, widths[1:])))

        first = nn.Sequential(conv_norm(1, base_channels, (3, 3, 3)), *stage(1, 2))
        super().__init__([first, stage(2, 2, 4), stage(4, 4, 8)],
                         nn.Sequential(*stage(8, 8, 16), nn.Dropout(dropout)),
                         [stage(24, 8, 8), stage(12, 4, 4), stage(6, 2, 2)],
                         2 * base_channels, n_classes, channel_dropout)


class SepBlock(nn.Module):
    """In-plane, through-plane, in-plane and in-plane convolution, plus a projection of the input.

    (B, channels, Z, Y, X) -> (B, width, Z, Y, X).
    """

    def __init__(self, channels: int, width: int, separate_direction: str = "axial") -> None:
        super().__init__()
        normal = ("axial", "sagittal", "coronal").index(separate_direction)  # axis of (Z, Y, X), the authors' naming
        within, between = ([3, 3, 3], [1, 1, 1])
        within[normal], between[normal] = 1, 3
        self.main = nn.Sequential(*conv_norm(channels, width, within), *conv_norm(width, width, between),
                                  *conv_norm(width, width, within), *conv_norm(width, width, within))
        self.shortcut = nn.Conv3d(channels, width, 1)
        self.norm = InstanceNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.main(x) + self.shortcut(x)), inplace=True)


class InstanceNorm(nn.InstanceNorm3d):
    """Instance norm that keeps the channels-last layout: PyTorch's converts to the plain layout, which takes several
    times as long on a CPU. For a single sample it equals batch norm."""

    def forward(self, x: Tensor) -> Tensor:
        if not x.is_contiguous(memory_format=torch.channels_last_3d) or x.is_contiguous():
            return super().forward(x)
        samples = [F.batch_norm(sample, None, None, training=True, eps=self.eps) for sample in x.split(1)]
        return torch.cat(samples) if len(samples) > 1 else samples[0]


def leave_out(network: EncoderDecoder, classes: Sequence[int]) -> None:
    """Set the probability of classes to 0 for good, in place: no gradient reaches them."""
    last = network.classify[-1]
    assert isinstance(last, nn.Conv3d) and last.bias is not None
    with torch.no_grad():
        last.weight[classes], last.bias[classes] = 0, -1e4


def conv_norm(channels: int, width: int, kernel: Sequence[int]) -> nn.Sequential:
    """Convolution that keeps the size, instance norm without parameters, ReLU."""
    z, y, x = kernel
    return nn.Sequential(nn.Conv3d(channels, width, (z, y, x), padding=(z // 2, y // 2, x // 2)),
                         InstanceNorm(width), nn.ReLU(inplace=True))
