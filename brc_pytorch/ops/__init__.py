"""The recurrences as functions of tensors."""
