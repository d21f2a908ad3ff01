"""The laboratory: what does each policy cost, against plain shared memory and against `open`?

A cell is a workload under a policy, of a size, from a seed. It runs in a fresh process, `python -m capshm.lab.cell`, so
that no cell inherits anything of another.

    cell        one cell: a JSON object in, a line of JSON out
    crew        the processes of a cell: made, counted, waited for, ended
    world       where a workload's memory comes from: a machine of capshm, or plain shared memory
    workloads   what is run, one file each
    trace       the file of a recorded program, which the workload of that name replays
    recording   runs a program with the recorder (native/recorder)
    journals    what that has written down, made into a trace
"""
