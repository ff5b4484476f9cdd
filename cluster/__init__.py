"""What `bnsweep launch` fills in: KubeRay, Slurm, `ray up` and Compose files, ready to use as they are."""
