"""The whole chain: python train.py

backbone -> SOL -> autoencoder -> adversarial, each from the best of those before; with --localisation joint
backbone_heatmap takes the place of the first two. Stopped at any moment, the same command goes on; finished stages are
not run again. Each stage has a folder in --run-dir, and a script of its own.
"""
from collections.abc import Sequence

from focusnet_v2.adv_train import Adversarial
from focusnet_v2.config import STEPS, Config, Train
from focusnet_v2.engine import Stage, is_finished, launch, prepared_settings, read_settings, train_stage
from focusnet_v2.train_autoencoder import Autoencoder
from focusnet_v2.train_backbone import Backbone
from focusnet_v2.train_backbone_heatmap import Joint
from focusnet_v2.train_SOL import SOL
from shared_data.errors import run_script
from shared_data.settings import given_options


def main(argv: Sequence[str] | None = None) -> None:
    options = given_options(Train, argv, __doc__, STEPS)
    config = prepared_settings(options)
    fabric = launch(config)
    for stage in chain(config):
        last = config.run_dir / stage.name / "last.pt"
        settings = read_settings(stage, {**options, "resume": last.exists()})
        if settings.resume and is_finished(stage, settings):
            if fabric.is_global_zero:
                print(f"stage {stage.name}: finished before")
            continue
        train_stage(stage, settings, fabric)


def chain(config: Config) -> list[type[Stage]]:
    """The stages in order. Without the shape constraint nothing needs the auto-encoder; without small organs all that
    is left is the main network."""
    if not config.small:
        return [Backbone]
    first = [Backbone, SOL] if config.localisation == "SOL" else [Joint]
    return [*first, *([Autoencoder] if config.shape_constraint else []), Adversarial]


if __name__ == "__main__":
    run_script(main)
