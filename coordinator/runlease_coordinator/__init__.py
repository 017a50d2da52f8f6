"""The coordinator: leases run IDs through Redis, decides resumes, takes in metrics under fencing tokens.

Guarantees: every decision is one atomic script of the store, judged by the store's clock; once a fence is granted,
nothing that carries an older one is accepted; what is acknowledged is appended. Not guaranteed: anything that the
store itself loses (see the README's table of promises).

Layers, top down; nothing imports upwards: `rpc` translates, `domain` decides, `store` calls one script an operation.
`bootstrap` wires them.
"""
