"""Training: runs, their files, and the processes and machines that they are trained on."""
