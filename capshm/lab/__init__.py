"""The laboratory: what does each policy cost, against plain shared memory and against `open`?

A cell is a workload under a policy, of a size, from a seed. It runs in a fresh process, `python -m capshm.lab.cell`, so
that no cell inherits anything of another.

    cell        one cell: a JSON object in, a line of JSON out
    crew        the processes of a cell: made, counted, waited for, ended
    world       where a workload's memory comes from: a machine of capshm, or plain shared memory
    loading     images and the regions that they are loaded into, in both worlds
    workloads   what is run, one file each
    trace       the file of a recorded program, which the workload of that name replays
    recording   runs a program with the recorder (native/recorder)
    journals    what that has written down, made into a trace
    image       the file of a program's pointers, which the workload of that name loads into its memory
    snapshot    finds them in memory, by numpy
    held        memory of a process that is held still
    core_file   memory in a core file
    heap        an image loaded into memory
    container   what both files have in common
    whole       files that are written whole or not at all
    density     looks at the tags of a cell from outside

A comparison is many cells, and what they say. The runner forks no emulated process, so here libraries may have threads;
nothing above imports anything below.

    choice      what a plan file and a command line say
    comparison  cases, configurations, and what each is compared with
    plan        which cells, how often, in which order
    run         every cell in its process, and on the disk
    places      where that is: here, or
    cluster     on the workers of a dask cluster
    measuring   one cell in its process
    keeper      a process around each cell, which leaves nothing of it behind
    canary      how far apart the machine's processors are just now
    results     the folder, in which nothing that has finished is lost
    filling     writes it: a new one, or one that was interrupted
    merging     several folders made one
    database    the same for SQL
    statistics  medians, overheads, and what could not have been seen
    summary     what all records together say
    table       that for people
    readme      the block of a README that holds it
    maps        where segments hold their tags, of runs that no time is taken of
    notebook    a folder as rows, columns, a frame
    report      one page, and pictures
    progress    how far the run is
    facts       the machine and the versions
"""
