"""Runs over several machines, on Ray Core (the extra `[ray]`; nothing of it is imported without need).

What is wanted:

    plan_file       a plan file (TOML) as run plans that do not depend on each other
    needs           what a run asks of a node: cores, GPUs, memory
    cost            what a grid will cost on given hardware
    grid            the runs of a plan in the store: submitted once, resumed, known again

Where it runs:

    nodes           what every node has: versions, models, files; and whether they agree

How it runs:

    driver          the process that has the grid's runs, and what their tasks send
    task            what it keeps of a run that is on its way
    incoming        what a run's task sends, brought into the store
    mailbox         an actor through which tasks hear that they must stop, or that their driver is gone
    node_task       one run on one node: our own worker on a folder of its own

The driver is to a grid what a worker is to a device (see `runs.worker`): it holds the lock of the queue "ray:NAME"
while it lives, so there is only one, and runs whose driver is gone are found in the same way. Nodes never open the
store. Each gets a run as a folder (see `runs.carried`) and sends back its rows and states, which the driver takes in.
"""
