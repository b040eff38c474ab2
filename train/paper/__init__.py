"""The paper's tables: rows, running many runs, the table and its figures."""
