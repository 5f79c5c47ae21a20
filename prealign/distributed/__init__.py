"""The only room that knows DeepSpeed: process group, engine, checkpoints, weights."""
