"""Label tables of users, and names that mean the same organ."""
import json

import pytest

from shared_data.errors import InputError
from shared_data.organ_names import identity
from shared_data.organs import read_label_table


def table(tmp_path, **keys):
    path = tmp_path / "my organs.json"
    path.write_text(json.dumps({"organs": {"Lens_L": 2, "Mandible": 1}, **keys}), encoding="utf-8")
    return path


def test_organs_come_in_the_order_of_their_labels(tmp_path):
    read = read_label_table(table(tmp_path, small=["Lens_L"], weights={"Mandible": 1, "Lens_L": 8}))
    assert read == {"organs": ("Mandible", "Lens_L"), "small": ("Lens_L",), "weights": (1.0, 8.0)}
    assert read_label_table(table(tmp_path)) == {"organs": ("Mandible", "Lens_L"), "small": (), "weights": None}


@pytest.mark.parametrize("keys, message", [
    ({"organs": {"A": 1, "B": 1}}, "label 1 stands for A and B"),
    ({"organs": {"A": 0, "B": 1}}, "0 is background"),
    ({"organs": {"A": 1, "B": 3}}, "labels 1, 3. They must be 1 to the number of organs"),
    ({"organs": {"A": -1}}, "without gaps"),
    ({"organs": {"A": 1.5}}, "no organs with whole numbers"),
    ({"organs": {"A": True}}, "no organs with whole numbers"),
    ({"organs": {}}, "no organs with whole numbers"),
    ({"organs": ["A"]}, "no organs with whole numbers"),
    ({"organs": {f"organ {label}": label for label in range(1, 300)}}, "at most 255"),
    ({"organs": {"background": 1}}, "cannot be an organ's name"),
    ({"organs": {" ": 1}}, "cannot be an organ's name"),
    ({"small": ["Chiasm"]}, "Chiasm not among its organs"),
    ({"small": "Lens_L"}, "small must be a list"),
    ({"weights": {"Mandible": 1}}, "weight of Lens_L is missing"),
    ({"weights": {"Mandible": 1, "Lens_L": "much"}}, "weight of Lens_L"),
    ({"weights": {"Mandible": 1, "Lens_L": -1}}, "weight of Lens_L"),
    ({"colour": {}}, "organs, small, weights and nothing else")])
def test_a_bad_table_is_one_line(tmp_path, keys, message):
    with pytest.raises(InputError, match=message) as raised:
        read_label_table(table(tmp_path, **keys))
    assert "my organs.json" in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"organs": {"A": 1, "A": 2}}', "\xff"])
def test_what_is_no_table_is_one_line(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="table.json"):
        read_label_table(path)
    with pytest.raises(InputError, match="no such label table"):
        read_label_table(tmp_path / "none.json")


@pytest.mark.parametrize("spellings", [
    ("BrainStem", "brain stem", "Brainstem", "BRAINSTEM", "brain_stem"),
    ("Parotid_L", "parotid L", "LeftParotid", "L Parotid", "parotid-left"),
    ("SpinalCord", "spinal cord", "Spinal_Cord"), ("Esophagus", "oesophagus")])
def test_spellings_of_one_organ_are_alike(spellings):
    assert len({identity(name) for name in spellings}) == 1
    assert identity("Parotid_L") != identity("Parotid_R") != identity("Larynx")
