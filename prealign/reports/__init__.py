"""Pages and figures from what runs have recorded."""
