"""A plain U-Net in place of NASNet-GCN, trained by the same train.py: same table, batches, loss, optimiser, schedule.

    python -m tests.bench.plain_unet --prepared-dir data/prepared/lidc_crops --run-dir runs/unet ...

The options are those of lung_nodule_nasnet.train; --decoder-width is the factor on the widths 32, 64, 128, 256.
"""
from lung_nodule_nasnet import quiet  # noqa: F401
from keras import Model, layers

from lung_nodule_nasnet import nasnet_v2, train, training
from lung_nodule_nasnet.nasnet_v2 import conv_bn_relu
from shared_data.errors import run_script

WIDTHS = (32, 64, 128, 256)


def build_unet(config):
    """Slices (B, size, size, 1) -> probabilities (B, size, size, 2): two 3x3 convolutions at each of four sizes."""
    widths = [round(width * config.decoder_width) for width in WIDTHS]
    x = image = layers.Input((config.size, config.size, 1))
    skips = []
    for width in widths:
        x = conv_bn_relu(conv_bn_relu(layers.MaxPooling2D()(x) if skips else x, width, 3), width, 3)
        skips.append(x)
    for width, skip in zip(widths[-2::-1], skips[-2::-1]):
        x = layers.Concatenate()([layers.Conv2DTranspose(width, 2, strides=2)(x), skip])
        x = conv_bn_relu(conv_bn_relu(x, width, 3), width, 3)
    network = Model(image, layers.Softmax()(layers.Conv2D(2, 1)(x)), name="plain_unet")
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization) and config.bn_momentum is not None:
            layer.momentum = config.bn_momentum
    return network


def in_its_place():
    """From here on the project builds U-Nets, where it trains and where it loads a checkpoint."""
    nasnet_v2.build_network = training.build_network = build_unet


if __name__ == "__main__":
    in_its_place()
    run_script(train.main)
