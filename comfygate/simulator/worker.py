"""The worker: one thread that runs one prompt at a time.

An exception that it does not expect ends it, as it ends ComfyUI's; HTTP goes
on, prompts are accepted, and none is run.
"""

from __future__ import annotations

import threading
import time
import traceback
from typing import Any

from attrs import define, field

from comfygate.simulator import faults
from comfygate.simulator.bodies import pick
from comfygate.simulator.graph import execution_order, is_link, signatures
from comfygate.simulator.jobs import Item, Jobs
from comfygate.simulator.machine import Machine
from comfygate.simulator.nodes import NODES, Ui
from comfygate.simulator.run import Interrupted, Run
from comfygate.simulator.sockets import Sockets
from comfygate.simulator.validation import full_name


@define
class Result:
    """What a node left behind."""

    outputs: tuple[Any, ...]
    shown: dict[str, Any] | None


@define
class Record:
    """What happened to a prompt so far."""

    messages: list[tuple[str, dict[str, Any]]] = field(factory=list)
    executed: list[str] = field(factory=list)
    success: bool = True


class Worker:
    """Takes jobs from `jobs` until the program ends."""

    def __init__(self, machine: Machine, jobs: Jobs, sockets: Sockets) -> None:
        self._machine = machine
        self._jobs = jobs
        self._sockets = sockets
        self._cache: dict[str, Result] = {}

    def start(self) -> threading.Thread:
        """Start the thread; it dies with the process."""
        thread = threading.Thread(target=self.prompt_worker, daemon=True)
        thread.start()
        return thread

    def prompt_worker(self) -> None:
        """Run prompts for ever.  The name is what ComfyUI's log shows when it dies."""
        while True:
            taken = self._jobs.take(timeout=1000.0)
            if taken is not None:
                self._run(*taken)
            flags = self._jobs.take_flags()
            if flags:
                self._machine.memory.clear()
            if flags.get("free_memory"):
                self._cache = {}

    def _run(self, key: int, item: Item) -> None:
        started = time.perf_counter()
        _, prompt_id, prompt, extra_data, outputs = item
        self._jobs.interrupted.clear()
        client = pick(extra_data, "client_id")
        self._sockets.current_client = client
        run = Run(self._machine, self._jobs, self._sockets, prompt_id, prompt, extra_data, client)
        record = Record()
        self._say(run, record, "execution_start", {"prompt_id": prompt_id})
        names = signatures(self._machine, prompt)
        known = set() if self._machine.options.cache_none else set(names.values())
        self._cache = {name: result for name, result in self._cache.items() if name in known}
        cached = [node_id for node_id in prompt if names[node_id] in self._cache]
        self._say(run, record, "execution_cached", {"nodes": cached, "prompt_id": prompt_id})
        self._execute(run, record, names, execution_order(prompt, outputs, set(cached)))
        self._sockets.current_node = None
        status = {"status_str": "success" if record.success else "error", "completed": record.success}
        self._jobs.finish(key, self._shown(names), status | {"messages": record.messages})
        if client is not None:
            self._sockets.post("executing", {"node": None, "prompt_id": prompt_id}, client)
        self._machine.console.say(f"Prompt executed in {time.perf_counter() - started:.2f} seconds")

    def _execute(self, run: Run, record: Record, names: dict[str, str], order: Any) -> None:
        for node_id in order:
            inputs: dict[str, Any] = {}
            try:
                self._node(run, record, names, node_id, inputs)
            except Interrupted:
                self._machine.console.say("Processing interrupted")
                self._fail(run, record, "execution_interrupted", node_id, {})
                return
            except Exception as error:
                self._fail(run, record, "execution_error", node_id, self._details(run, error, inputs))
                return
        self._say(run, record, "execution_success", {"prompt_id": run.prompt_id})

    def _node(self, run: Run, record: Record, names: dict[str, str], node_id: str, inputs: dict[str, Any]) -> None:
        found = self._cache.get(names[node_id])
        if found is not None:
            run.executed(node_id, found.shown)
            run.finish(node_id)
            return
        run.start(node_id)
        kind = NODES[run.prompt[node_id]["class_type"]]
        hidden = {"prompt": run.prompt, "extra_pnginfo": run.extra_pnginfo} if kind.takes_prompt else {}
        inputs.update(self._inputs(run.prompt, names, node_id))
        run.executing(node_id)
        run.check_interrupt()
        faults.check_poison(self._machine)
        time.sleep(self._machine.options.sim_node_seconds)
        self._machine.executed_nodes += 1
        given = {name: value for name, value in inputs.items() if name in kind.required or name in kind.optional}
        inputs.update(hidden)
        made = kind.work(run, **given)
        result = Result(made.outputs, made.shown or None) if isinstance(made, Ui) else Result(made, None)
        if result.shown:
            run.executed(node_id, result.shown)
        self._cache[names[node_id]] = result
        run.finish(node_id)
        record.executed.append(node_id)

    def _inputs(self, prompt: dict[str, Any], names: dict[str, str], node_id: str) -> dict[str, Any]:
        return {
            name: self._cache[names[value[0]]].outputs[value[1]] if is_link(value) else value
            for name, value in prompt[node_id]["inputs"].items()
        }

    def _shown(self, names: dict[str, str]) -> dict[str, Any]:
        """Outputs of every node of the prompt that has any, and where they came from."""
        outputs: dict[str, Any] = {}
        meta: dict[str, Any] = {}
        for node_id, name in names.items():
            result = self._cache.get(name)
            if result is not None and result.shown:
                outputs[node_id] = result.shown
                origin = {"node_id": node_id, "display_node": node_id, "parent_node": None, "real_node_id": node_id}
                meta[node_id] = origin
        return {"outputs": outputs, "meta": meta}

    def _details(self, run: Run, error: Exception, inputs: dict[str, Any]) -> dict[str, Any]:
        self._machine.console.say(f"!!! Exception during processing !!! {error}")
        if isinstance(error, faults.OutOfMemoryError):
            self._machine.memory.clear()
        plain = (str, int, float, bool, type(None))
        return {
            "exception_message": f"{error}\n",
            "exception_type": full_name(error.__class__),
            "traceback": traceback.format_tb(error.__traceback__),
            "current_inputs": {
                name: [value if isinstance(value, plain) else str(value)] for name, value in inputs.items()
            },
            "current_outputs": list(run.prompt),
        }

    def _fail(self, run: Run, record: Record, event: str, node_id: str, details: dict[str, Any]) -> None:
        record.success = False
        data = {
            "prompt_id": run.prompt_id,
            "node_id": node_id,
            "node_type": run.prompt[node_id]["class_type"],
            "executed": list(record.executed),
        }
        self._say(run, record, event, data | details, to_all=event == "execution_interrupted")

    def _say(self, run: Run, record: Record, event: str, data: dict[str, Any], to_all: bool = False) -> None:
        """Note what happened, and tell the client; `to_all` if it has no id."""
        data = data | {"timestamp": int(time.time() * 1000)}
        record.messages.append((event, data))
        if run.client is not None or to_all:
            self._sockets.post(event, data, run.client)
        else:
            self._sockets.note(event, data)
