"""What makes the paper's tables: their rows, many runs, the table, its figures."""
