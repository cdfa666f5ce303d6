"""The wire types of the APIs that amaru speaks, and pure functions over them; no I/O, and no provider's quirks.

``openai`` reads and re-writes requests, ``answers`` reads whole answers, ``sse`` splits event streams (WHATWG), and
``stream`` follows a streamed answer chunk by chunk.
"""
