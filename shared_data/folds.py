"""The same patients in the same fold everywhere: by name order, without chance."""
import re


def natural_sort(names):
    """P2 before P10."""
    return sorted(names, key=lambda name: ([(int(part), "") if part.isdecimal() else (-1, part.lower())
                                            for part in re.split(r"(\d+)", name)], name))


def hold_out(patients, share):
    """(the others, the held-out), the latter the last `share` of the naturally sorted names, at least one."""
    patients = natural_sort(patients)
    n_held_out = max(1, round(len(patients) * share))
    return patients[:-n_held_out], patients[-n_held_out:]


def make_folds(patients, n_folds=5):
    """Runs of the naturally sorted names, sizes equal or one apart; fewer folds when there are fewer patients."""
    patients = natural_sort(patients)
    n_folds = min(n_folds, len(patients))
    ends = [len(patients) * fold // n_folds for fold in range(n_folds + 1)]
    return [patients[start:stop] for start, stop in zip(ends, ends[1:])]
