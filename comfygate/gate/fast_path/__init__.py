"""A shorter way through Twisted for sockets: the only folder that knows how its transports and its loop work inside.

Twisted's own way queues what is written, asks the reactor to say when the
socket takes it, and sends it then: four calls of ``epoll_ctl()`` for each
request that is relayed.  Here, what is written is sent at once where nothing
waits before it, which is nearly always; only what the kernel does not take is
queued, and from there on all is as Twisted does it (:mod:`.transports`).
What is read comes in larger pieces, through one buffer that all share.  Large
bodies go from one socket to the other within the kernel (:mod:`.splices`), and
the reactor loses no time between one event and the next (:mod:`.loop`).

With ``fast_path = off`` nothing of this is used, and all must behave the same.
"""
