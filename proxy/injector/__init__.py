"""The webhook that puts the sidecar into pods that ask for it: `tollhouse inject`.

    bytes ─► review ─► pod (what it is) ─► verdict (asked? possible?) ─► patch ─► review ─► bytes
    server: TLS, bounds, deadlines; which files are in force: sidecar, identity, by watch

The rule a reader could break: nothing of a pod but its namespace and name is logged or put into an error, since its environment may
hold secrets; and the proxy itself imports nothing from here.
"""
