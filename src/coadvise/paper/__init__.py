"""The tables, figures and claims of the paper, and what goes beyond it, declared as data."""
