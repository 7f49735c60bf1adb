"""Floor 3: weights and programs to and from other frameworks."""
