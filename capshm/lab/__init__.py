"""The laboratory: what does each policy cost, against plain shared memory and against `open`?

A cell is a workload under a policy, of a size, from a seed. It runs in a fresh process, so that no cell inherits
anything of another: `python -m capshm.lab.cells.cell`.

    inputs      traces of what real programs allocate, images of where they keep their pointers
    workloads   what is run, one file each
    cells       what runs in a cell's processes, and a keeper around them that leaves nothing of it behind
    whole       files that are written whole or not at all

A comparison is many cells, and what they say. The runner forks no emulated process, so here libraries may have threads;
nothing above imports anything below.

    choice      what a plan file and a command line say; the plans that come along are in plans/
    plan        which cells, how often, in which order; comparison: what is compared with what
    results     the folder, in which nothing that has finished is lost, for SQL and notebooks, too
    runner      every cell in its process, here or on the workers of a cluster, and on the disk
    statistics  medians, overheads, and what could not have been seen
    summary     what all records together say
    table       that for people; readme: the block of a README that holds it
    report      one page, and pictures
    perfetto    what happened in a machine, for Perfetto
"""
