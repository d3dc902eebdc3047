# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The commands of `mtl-perception` that this package brings; each is `add_arguments` and `run`."""
