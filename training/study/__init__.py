# Copyright 2026 The mtl_perception authors
# SPDX-License-Identifier: Apache-2.0

"""Studies: many training runs that answer one question, and the report that answers it."""
