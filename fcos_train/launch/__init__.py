"""Starts trainings: several ranks on this machine, in a Slurm job, or as the shell launchers do."""
