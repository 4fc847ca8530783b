"""The control plane: what the gate has to understand, answered over HTTP."""
