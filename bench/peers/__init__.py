"""Other ways to serve the same classifier, each in an environment of its own, as its own documentation recommends.

    peer.install(report)
    with peer.start(model, precision, cores, report) as target:
        async with target.caller() as call:
            probabilities = await call(["Sorry, I can't help with that."])

A peer is a folder here: `requirements.in` and the pins made from it, and the program that serves, if the peer has no
command of its own. Every one gets the same weights and the same texts, truncates at the same length, and is set up for
a CPU of so many cores: one process or thread of computation a core. The peers are in `catalogue.PEERS`.
"""
