"""The only code the projects share: settings, files, CT volumes, folds, metrics, phantoms, reports."""
