"""Record: an append-only log of receipts that anyone can verify with public keys and public formats.

``merkle`` is the algebra (RFC 6962), ``tiles``, ``notes``, ``checkpoint`` and ``tlog_proof`` the C2SP formats, ``log``
the log itself and ``view`` what a reader sees of it, ``writer`` the process's one writer, ``audit`` its check.
"""
