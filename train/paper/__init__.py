"""The paper's tables: running many runs, the table of each data set, and figures."""
