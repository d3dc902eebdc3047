"""Studies: many training runs that answer one question, and the report that answers it."""
