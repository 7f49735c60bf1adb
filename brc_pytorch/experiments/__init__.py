"""The baseline comparisons: train cells on the benchmark tasks, then plot and tabulate.

Needs the extra `brc_pytorch[experiments]`; the command is `brc`.
"""
