"""Every figure of capshm's speed beside the limit that the machine sets: `python -m bench`.

    figures.py         what is measured: figures, limits and goals as data
    run.py             builds the programs that measure, and runs them in rounds
    report.py          medians and spreads, the table, the JSON document, the README
    native.c, calls.py the programs whose figures are ours: the C core; calls from Python
    limits/            the least that the machine must do for the same work

A program measures a figure and its limit in one run, interleaved, and prints both; a round runs every program once.
So each ratio is of two times that were taken within a second, on a machine whose speed may change the next.
"""
