"""What runs have left, in tables, plots and pages; it reads files alone, and trains nothing."""
