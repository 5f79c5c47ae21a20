"""Stages, their plan, the loop, schedule and metrics."""
