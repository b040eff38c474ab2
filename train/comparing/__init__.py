"""Four small tasks, and what RSTG is compared with on them."""
