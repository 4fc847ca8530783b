"""The data plane: one listening port, its relay, its pools, its WebSocket bridge."""
