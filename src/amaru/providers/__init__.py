"""Act: carry one call to one provider, and turn whatever goes wrong into exactly one ``Failure``.

``transport.py`` is the seam between what a provider says (one file per kind of provider) and how bytes get there
(``h1.py``: our own HTTP/1.1; ``reqwest.py``: the pyreqwest library).
"""
