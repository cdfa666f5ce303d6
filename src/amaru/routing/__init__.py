"""Decide: which offers may serve a workload, in which order, and why.

Filter, score, pick: ``board`` holds what is known of every offer as arrays, ``kernels`` filters and scores them in one
compiled pass (the simulator calls the same code), ``policies`` say what to prefer, ``router`` asks and ``explanation``
puts the answer in words. ``reactions`` is the failure taxonomy as one table; ``breaker``, ``limits`` and ``retries``
keep a sick or busy offer from being asked.

No I/O and no clocks in here: every instant comes in as ``now_s``.
"""
