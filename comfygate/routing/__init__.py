"""Policies: which waiting job goes to which GPU next, and where to look for a prompt."""
