"""Score a trained network: python test.py [--scans LUNA16 [--excluded annotations_excluded.csv]]

Without --scans: the validation slices of the table, slice by slice. With it: whole scans (LUNA16 or LIDC-IDRI) against
a table of nodules (annotations.csv), FROC and CPM as LUNA16 counts them; scans that training has seen are left out.
Writes to the output folder: cases.csv, summary.json, overlays/, report.html; without --scans also slices.csv, with it
candidates.csv (the challenge's form), candidates_class.csv (for train_fpr.py) and froc.png.
"""
from dataclasses import dataclass
from pathlib import Path

from lung_nodule_nasnet.checkpoint import load_checkpoint
from lung_nodule_nasnet.config import Config
from shared_data.errors import InputError, run_script
from shared_data.settings import build, config_from_dict, given_options


@dataclass(frozen=True)
class TestConfig(Config):
    scans: Path | None = None  # folder of whole scans to score; unset: the validation slices
    nodules: Path | None = None  # their nodules; unset: annotations.csv in --scans
    excluded: Path | None = None  # findings that count neither way (annotations_excluded.csv)
    seen_scans: bool = False  # score scans of the training, too
    reducer: Path | None = None  # fpr.npz of train_fpr.py
    bootstrap_samples: int = 1000  # drawn sets of scans for the 95 % interval
    checkpoint: Path | None = None  # unset: best.npz of the run folder
    output_dir: Path | None = None  # unset: <run folder>/validation or /scans

    def __post_init__(self):
        super().__post_init__()
        for name, value in (("checkpoint", self.run_dir / "best.npz"),
                            ("output_dir", self.run_dir / ("scans" if self.scans else "validation"))):
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if self.bootstrap_samples < 1:
            raise ValueError("--bootstrap-samples must be at least 1.")


def main(argv=None):
    given = given_options(TestConfig, argv, __doc__)
    first = build(TestConfig, given)
    state, _ = load_checkpoint(first.checkpoint)
    trained = config_from_dict(Config, state["config"], first.checkpoint)
    fixed = {name: getattr(trained, name) for name in
             ("size", "encoder_filters", "encoder_blocks", "decoder_width", "bn_momentum")}
    changed = [name for name in fixed if name in given and given[name] != fixed[name]]
    if changed:
        raise InputError(f"--{changed[0].replace('_', '-')}: the checkpoint's is {fixed[changed[0]]}. Leave it out.")
    config = build(TestConfig, {**vars(trained), "run_dir": first.run_dir, **given})
    from lung_nodule_nasnet import quiet  # noqa: F401  TensorFlow takes seconds to load: not for --help
    if config.scans:
        from lung_nodule_nasnet.score_scans import score_scans
        return score_scans(config, set(state.get("train_series", [])) | set(state.get("validation_series", [])))
    from lung_nodule_nasnet.score_slices import score_slices
    return score_slices(config)


if __name__ == "__main__":
    run_script(main)
