"""Runs that are killed at random moments and go on, bit for bit; and disks, memory and processes that fail them.

It lies beside the tests, whose recipes and ways to start processes it uses, and says right or wrong and not how fast.
It is not among the tests that pytest finds, since it takes minutes: `make torture` is `python -m torture` in the folder
`tests`. `test_torture.py` shows that it would notice.
"""
