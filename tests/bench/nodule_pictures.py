"""Pictures of the best, median and worst test slices of real nodules, for real_nodules.py."""
import numpy as np

from shared_results.pictures import contact_sheet, overlay, save_picture

SIDE = 64  # pixels about the middle
EACH = 4


def draw_cases(path, images, slices, table, masks):
    """One row each of the best, median and worst patients: the median slice of each; readers green, network red."""
    by_patient = {}
    for row in table:
        by_patient.setdefault(row["patient"], []).append(row)
    dice = {patient: 2 * sum(row["overlap"] for row in rows) / sum(row["drawn"] + row["marked"] for row in rows)
            for patient, rows in by_patient.items()}
    order = sorted(dice, key=dice.get, reverse=True)
    middle = len(order) // 2 - EACH // 2
    start = images.shape[1] // 2 - SIDE // 2
    part = np.s_[start:start + SIDE, start:start + SIDE]
    tiles = []
    for patient in [*order[:EACH], *order[middle:middle + EACH], *order[-EACH:]]:
        rows = sorted(by_patient[patient], key=lambda row: row["dice"])
        k = rows[len(rows) // 2]["crop"]
        tiles.append((overlay(images[k][part] / 255, slices.drawn[k][part], masks[k][part], 320),
                      f"{dice[patient]:.2f}"))
        print(f"{patient}: Dice {dice[patient]:.3f}, shown slice {rows[len(rows) // 2]['dice']:.3f}, "
              f"{rows[0]['diameter_mm']:.1f} mm")
    save_picture(path, contact_sheet(tiles))
