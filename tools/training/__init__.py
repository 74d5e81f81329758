"""Training of the two miniature models in data/checkpoints; see tools/train_minis.py."""
