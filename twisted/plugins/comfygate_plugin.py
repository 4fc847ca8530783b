"""What twistd finds: the service, and the policies that come with it."""

from twisted.application.service import ServiceMaker

from comfygate.routing.registry import PolicyMaker

comfygate_service = ServiceMaker(
    "ComfyGate",
    "comfygate.tap",
    "N GPUs as N complete ComfyUI servers, and one hub over them all.",
    "comfygate",
)

least_loaded = PolicyMaker(
    name="least-loaded",
    dotted="comfygate.routing.least_loaded.LeastLoaded",
    help="to the GPU with the least work: running prompts x 10 + pending ones",
)
round_robin = PolicyMaker(
    name="round-robin",
    dotted="comfygate.routing.round_robin.RoundRobin",
    help="to each GPU in turn",
)
sticky_by_client = PolicyMaker(
    name="sticky-by-client",
    dotted="comfygate.routing.sticky.StickyByClient",
    help="a client's prompts stay on one GPU",
)
ledger_lookup = PolicyMaker(
    name="ledger",
    dotted="comfygate.routing.interrupts.LedgerLookup",
    help="look for a prompt where our books say that it is",
    kind="interrupt",
)
ask_all = PolicyMaker(
    name="ask-all",
    dotted="comfygate.routing.interrupts.AskAll",
    help="look for a prompt on every GPU",
    kind="interrupt",
)
