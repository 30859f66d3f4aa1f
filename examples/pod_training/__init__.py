"""One complete training program: on a laptop, with Slurm, on a pod (see README.md)."""
