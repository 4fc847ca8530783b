"""What twistd finds: the service, and the policies that come with it."""

from twisted.application.service import ServiceMaker

from comfygate.routing.registry import PolicyMaker

comfygate_service = ServiceMaker(
    "ComfyGate",
    "comfygate.tap",
    "N GPUs as N complete ComfyUI servers, and one hub over them all.",
    "comfygate",
)

affinity = PolicyMaker(
    name="affinity",
    dotted="comfygate.routing.affinity.Affinity",
    help="to the GPU where it costs least, since its models are loaded there",
    arguments="overtake=200,delay=600",
)
fair = PolicyMaker(
    name="fair",
    dotted="comfygate.routing.fair.Fair",
    help="clients take turns; another policy chooses among the jobs of each",
    arguments="within=affinity, and what that takes",
)
least_loaded = PolicyMaker(
    name="least-loaded",
    dotted="comfygate.routing.least_loaded.LeastLoaded",
    help="to the GPU with the least work: running prompts x 10 + pending ones",
)
most_free_memory = PolicyMaker(
    name="most-free-memory",
    dotted="comfygate.routing.most_free_memory.MostFreeMemory",
    help="to an idle GPU, and of several to the one with the most free memory",
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
weighted = PolicyMaker(
    name="weighted",
    dotted="comfygate.routing.weighted.Weighted",
    help="to each GPU in turn, as often as its weight in [gpu:n] says",
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
