"""The commands of `mtl-perception` that this package brings; each is `add_arguments` and `run`."""
