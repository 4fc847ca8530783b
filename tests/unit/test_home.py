"""Where a client is at home."""

from __future__ import annotations

from comfygate.routing.home import home


def test_only_the_clients_of_a_gpu_that_is_gone_move() -> None:
    clients = [b"%d" % n for n in range(400)]
    before = {client: home(client, (0, 1, 2, 3)) for client in clients}
    after = {client: home(client, (0, 1, 3)) for client in clients}
    assert {client for client in clients if before[client] != after[client]} == {c for c in clients if before[c] == 2}
    assert all(60 < list(before.values()).count(gpu_id) < 140 for gpu_id in range(4))
