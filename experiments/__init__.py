"""One file per question; `python -m experiments.NAME` answers it. See `cli` for what they share."""
