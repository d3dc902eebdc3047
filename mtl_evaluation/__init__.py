# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Drives on disk: bags in, bags out, ground truth by stamp, metrics and what a person looks at."""
