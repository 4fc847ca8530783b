"""All scenarios, and what they promise."""

from __future__ import annotations

from types import ModuleType

from benchmarks.proxy import bodies, comfyui, control, memory, page, small, websockets

MODULES: list[ModuleType] = [small, page, bodies, websockets, control, memory, comfyui]
"""Each has SCENARIOS, PROMISES, and PLOTTED: scenarios and figures for the plot."""

SCENARIOS = [scenario for module in MODULES for scenario in module.SCENARIOS]
PROMISES = [promise for module in MODULES for promise in module.PROMISES]
PLOTTED = [row for module in MODULES for row in module.PLOTTED]
