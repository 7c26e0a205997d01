"""How many servers a load takes, and whether scaling by the queue keeps up: a simulation, checked against real servers.

`events` follows every text through a door and some servers; `day` follows seconds through a day of thousands of them,
with what `events` found; `scaling` decides on how many as Kubernetes does; `real` runs the same few servers
in earnest.
"""
