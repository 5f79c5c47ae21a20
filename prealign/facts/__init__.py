"""Injected facts: artificial entities, relations with templates, and the token stores that hold their statements."""
