"""Sense: how each provider fares, from what its answers show.

``observation`` is what one attempt showed, ``sample`` the figures of one answer's shape and text, ``signature`` what is
known of an offer (latency, errors, coherence, stability), in constant memory. ``features`` names the columns that
patterns and prediction read.

``patterns`` names what happens, ``prediction`` foresees, ``healer`` acts; ``sense`` holds signatures, patterns and
predictions over one set of offers, ``report`` is what people read of them, ``memory`` what outlives the process and
``history`` what came again. ``consciousness`` and ``bridge`` are their faces in Python.

No clocks in here: every instant comes in as an argument, in Unix seconds. I/O is ``memory``'s, ``remote``'s and
``consciousness``'s alone.
"""
