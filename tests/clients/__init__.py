"""Clients that others have published, unmodified, on a GPU's port and on the hub.

``make clients`` installs them into build/clients, apart from everything else:
what they need contradicts what ComfyGate needs.  What is not there is skipped.
"""
