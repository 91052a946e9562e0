"""``fmen reproduce``: the tables and figures of the FMEN paper and of the networks that it compares with.

Each experiment is one file that ends with its ``EXPERIMENT``: a name, a title, and a function from
:class:`~fmen.reproduction.result.Options` to a :class:`~fmen.reproduction.result.Result`. It is listed in
``fmen.reproduction.experiments``.
"""
