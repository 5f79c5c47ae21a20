"""What a run costs, and what a machine can do."""
