"""
The guest agent: one resident process that gives a forked VM its own identity and keeps its containers in Consul.

It waits at the fork point inside a blocking read, with everything imported and no timer running.
After the fork it starts no process: each exec in a fresh child would fault in cold pages, so the
kernel is spoken to directly. It imports nothing of forkyard but the wire format.
"""
