"""Calls of a pipeline's methods as Ray tasks."""
