"""How well two people agree on the organs of head and neck, to compare a network's scores with."""
from pathlib import Path

from shared_data.files import read_json
from shared_data.organ_names import identity

HUMAN_LEVEL = Path(__file__).parent / "human_level.json"  # written by tests/bench/focusnet_observers.py

Scores = dict[str, float]  # "dice", "hd95_mm", "assd_mm", each with its "_std", and "n_..." patients


def human_level() -> tuple[str, dict[tuple[str, str], Scores]]:
    """(who was compared with whom, {`identity` of an organ: the scores})"""
    level = read_json(HUMAN_LEVEL)
    return level["what"], {identity(name): scores for name, scores in level["organs"].items()}
