"""The commands; installed, `prealign.launchers`."""
