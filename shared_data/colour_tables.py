"""What a label map's numbers mean, for those who look at it: a colour table of 3D Slicer, a label file of ITK-SNAP."""
from shared_data.files import whole_file
from shared_data.organ_pictures import COLOURS


def write_colour_tables(names, stem):
    """Write `<stem>.ctbl` (3D Slicer) and `<stem>.label` (ITK-SNAP) of {label: organ}, coloured as in our pictures."""
    colours = {label: " ".join(map(str, COLOURS[label % len(COLOURS)].tolist())) for label in names}
    slicer = ["# 3D Slicer colour table: label, name, red, green, blue, opacity", "0 background 0 0 0 0",
              *(f"{label} {'_'.join(name.split())} {colours[label]} 255" for label, name in names.items())]
    snap = ["# ITK-SnAP Label Description File: label, red, green, blue, opacity, visible, mesh, name",
            '0 0 0 0 0 0 0 "Clear Label"',
            *(f'{label} {colours[label]} 1 1 1 "{name}"' for label, name in names.items())]
    for suffix, lines in ((".ctbl", slicer), (".label", snap)):
        with whole_file(f"{stem}{suffix}") as partial:
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
