"""The sides of a comparison, a module each.

A module has `open_peer(settings, name)`, whose object answers `about`, `losses`, `first_step` and what it can do of `make_step`,
`make_epoch`, `make_decode`, `make_predict` and `make_augment`. Each of these prepares and returns a function without
arguments, one turn: {name of a measure: number}; `measures.MEASURES` lists the names.
"""
