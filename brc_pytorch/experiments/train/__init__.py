"""Training: one run, and sweeps over executors of this machine and of a cluster."""
