"""How well two people agree on the organs of a head and neck: what stands beside a network's scores."""
from pathlib import Path

from shared_data.files import read_json
from shared_data.organ_names import identity

HUMAN_LEVEL = Path(__file__).parent / "human_level.json"  # written by tests/bench/focusnet_observers.py

Scores = dict[str, float]  # "dice", "hd95_mm", "assd_mm", their "_std" and the "n_" of patients


def human_level() -> tuple[str, dict[tuple[str, str], Scores]]:
    """(who was compared with whom, {`identity` of an organ: the scores})"""
    kept = read_json(HUMAN_LEVEL)
    return kept["what"], {identity(name): scores for name, scores in kept["organs"].items()}
