"""What the book's patch lab runs in a reader's browser; see tools/export_lab.py."""
