"""What ``train/reproduce.py`` is made of: the rows of a table, their runs, the table, its figures."""
