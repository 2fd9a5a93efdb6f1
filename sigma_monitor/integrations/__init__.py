"""Adapters: each translates the hooks of one host into calls of `SigmaMonitor`, nothing else."""
