"""Sense: how each provider fares, from what its answers show.

``observation`` is what one attempt showed, ``sample`` the figures of one answer's shape and text, ``signature`` what is
known of an offer (latency, errors, coherence, stability), in constant memory. ``features`` names the columns that
patterns and prediction read.

No I/O and no clocks in here: every instant comes in as an argument, in Unix seconds.
"""
