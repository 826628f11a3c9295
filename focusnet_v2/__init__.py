"""FocusNet v2: large and small organs at risk in head-and-neck CT."""
