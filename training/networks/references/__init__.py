# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""The peers' networks, written from their papers, to be trained and measured beside ours.

Small references, not products, and not compared with the authors' weights: one file per network,
which states what it changes. They share loop, data, augmentation, mask loss, evaluation and export
with HydraNet; image attributes, which none of the papers has, get our linear classifier on the
trunk's last features.
"""
