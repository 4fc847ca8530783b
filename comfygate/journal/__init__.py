"""Accepted jobs on disk."""
