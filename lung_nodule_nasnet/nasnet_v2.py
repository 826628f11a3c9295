"""NASNet-GCN: a NASNet-Mobile encoder, a decoder of global convolutions and squeeze-excitation.

Keras layers and operations only, so that it runs on TensorFlow, JAX and PyTorch. Maps are (B, Y, X, C).
"""
from collections.abc import Sequence
from typing import Any

import keras
from keras import KerasTensor, layers, ops
from keras.src.applications.nasnet import NASNet

from lung_nodule_nasnet.config import Config

DECODER_WIDTHS = (192, 128, 96, 64)
TAPPED_CELLS = ("reduce_{last}", "reduce_{first}", "stem_2")  # reduction cells, the deepest first


def build_network(config: Config) -> keras.Model:
    """The network of a `Config`: slices (B, size, size, 1) -> probabilities (B, size, size, 2)."""
    return nasnet_gcn(config.size, config.encoder_filters, config.encoder_blocks, config.decoder_width,
                      config.bn_momentum)


def nasnet_gcn(size: int, encoder_filters: int = 1056, encoder_blocks: int = 4, decoder_width: float = 1.0,
               bn_momentum: float | None = None) -> keras.Model:
    """The defaults give the paper's network; smaller numbers narrow or shorten it for trials.

    encoder_filters: of the encoder's last map, a multiple of 96. decoder_width: factor on the decoder's channels.
    bn_momentum: of every batch normalisation; None leaves 0.9997 in the encoder and 0.99 in the decoder.
    """
    image = layers.Input((size, size, 1))
    encoder = NASNet(
        input_tensor=image, input_shape=(size, size, 1), penultimate_filters=encoder_filters,
        num_blocks=encoder_blocks, stem_block_filters=32, skip_reduction=False, include_top=False, weights=None)
    taps = encoder_taps(encoder, encoder_blocks)
    widths = [max(8, round(width * decoder_width)) for width in DECODER_WIDTHS]
    x = comb_last(encoder.output, widths[0])
    for tap, comb_width, width in zip(taps, widths, widths[1:]):
        x = resize(x, tap.shape[1])
        x = layers.Concatenate()([x, comb(tap, comb_width)])
        x = conv_bn_relu(squeeze_excite(x), width, 3)
    x = resize(x, encoder.get_layer("stem_conv1").output.shape[1])
    x = resize(conv_bn_relu(x, widths[3], 3), size)
    logits = layers.Conv2D(2, 1, name="logits")(x)
    network = keras.Model(image, layers.Softmax(name="probabilities")(logits), name="nasnet_gcn")
    if bn_momentum is not None:
        for layer in network.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.momentum = bn_momentum
    return network


def encoder_taps(encoder: keras.Model, blocks: int) -> list[KerasTensor]:
    """What the three reduction cells (1/16, 1/8, 1/4 of the input) take in, their two inputs concatenated.

    In each cell: the rectified output of its own 1x1 convolution, and that of the adjusted cell before.
    """
    sides = [layer.output.shape[1] for layer in encoder.layers if layer.name == "stem_conv1"]
    for _ in TAPPED_CELLS:
        sides.append((sides[-1] + 1) // 2)
    taps = []
    for cell, side in zip(TAPPED_CELLS, reversed(sides[1:])):
        cell = cell.format(last=2 * blocks, first=blocks)
        pair = [rectified(encoder, f"{name}_{cell}") for name in ("reduction_bn_1", "adjust_bn")]
        if {tap.shape[1] for tap in pair} != {side}:
            raise ValueError(f"the encoder's cell {cell} has maps {[tap.shape for tap in pair]}, not of {side} pixels")
        taps.append(layers.Concatenate()(pair))
    return taps


def rectified(encoder: keras.Model, name: str) -> KerasTensor:
    """The ReLU that follows the encoder's layer `name`."""
    source = encoder.get_layer(name).output
    return next(layer.output for layer in encoder.layers
                if isinstance(layer, layers.Activation) and layer.input is source)


def comb(x: KerasTensor, width: int) -> KerasTensor:
    """Skip connection: 1x1, two dilated separable and a global convolution side by side."""
    x = squeeze_excite(x)
    branches = [layers.Conv2D(width, 1)(x),
                *(layers.SeparableConv2D(width, 3, padding="same", dilation_rate=rate)(x) for rate in (3, 6)),
                global_convolution(x, width, 19)]
    return joined(branches, width)


def comb_last(x: KerasTensor, width: int) -> KerasTensor:
    """The deepest map: as `comb`, with a 3x3 convolution and dilations 2 to 5."""
    x = squeeze_excite(x)
    branches = [layers.Conv2D(width, 1)(x), layers.Conv2D(width, 3, padding="same")(x),
                *(layers.SeparableConv2D(width, 3, padding="same", dilation_rate=rate)(x) for rate in (2, 3, 4, 5)),
                global_convolution(x, width, 13)]
    return joined(branches, width)


def joined(branches: Sequence[KerasTensor], width: int) -> KerasTensor:
    branches = [layers.ReLU()(layers.BatchNormalization(epsilon=1e-5)(branch)) for branch in branches]
    return conv_bn_relu(squeeze_excite(layers.Concatenate()(branches)), width, 1)


def global_convolution(x: KerasTensor, width: int, kernel: int) -> KerasTensor:
    """GCN: a large kernel as the sum of its two separable halves."""
    tall_wide = layers.Conv2D(width, (1, kernel), padding="same")(layers.Conv2D(width, (kernel, 1), padding="same")(x))
    wide_tall = layers.Conv2D(width, (kernel, 1), padding="same")(layers.Conv2D(width, (1, kernel), padding="same")(x))
    return layers.Add()([tall_wide, wide_tall])


def squeeze_excite(x: KerasTensor, ratio: int = 8) -> KerasTensor:
    """Scale each channel by what the whole slice says."""
    channels = x.shape[-1]
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)  # (B, 1, 1, C)
    for units, activation in ((max(1, channels // ratio), "relu"), (channels, "sigmoid")):
        gate = layers.Dense(units, activation=activation, use_bias=False, kernel_initializer="he_normal")(gate)
    return layers.Multiply()([x, gate])


def conv_bn_relu(x: KerasTensor, width: int, kernel: int) -> KerasTensor:
    x = layers.Conv2D(width, kernel, padding="same")(x)
    return layers.ReLU()(layers.BatchNormalization(epsilon=1e-5)(x))


def resize(x: KerasTensor, side: int) -> KerasTensor:
    return ResizeAligned(side)(x)


class ResizeAligned(layers.Layer):
    """Bilinear resizing whose corner pixels stay where they are. (B, Y, X, C) -> (B, side, side, C)."""

    def __init__(self, side: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.side = side

    def call(self, x: KerasTensor) -> KerasTensor:
        for axis, letters in ((1, "oi,bixc->boxc"), (2, "oi,byic->byoc")):
            x = ops.einsum(letters, ops.cast(self._weights(x.shape[axis]), x.dtype), x)
        return x

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        return input_shape[0], self.side, self.side, input_shape[3]

    def _weights(self, n):
        """(side, n): the share of each input pixel in each output pixel."""
        at = ops.arange(self.side, dtype="float32") * ((n - 1) / max(1, self.side - 1))
        return ops.maximum(1 - ops.abs(at[:, None] - ops.arange(n, dtype="float32")), 0)
