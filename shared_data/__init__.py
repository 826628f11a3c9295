"""What the projects share about data: CT volumes, DICOM, contours, folds, metrics, phantoms; files and settings."""
