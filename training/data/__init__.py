# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Data sets, transforms and batches; every sample says which tasks it labels."""
