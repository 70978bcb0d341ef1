"""Damaged inputs: whatever a file holds, reading it gives a result or one of our errors, soon and in little memory.

`mutate` changes bytes and trees, `targets/` know the formats and what reads them, `engine` reads each input within
limits in a process that may die, `report` counts. The suite reads a few hundred inputs of each format; `make fuzz` is
`python -m fuzz` in the folder `tests`.
"""
