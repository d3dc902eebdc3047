# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""What teachers know about images that people labelled only in part; `training.teach` writes it."""
