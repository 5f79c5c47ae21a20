"""The alignment table: which source word means which target words."""
