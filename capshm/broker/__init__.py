"""The broker: a process of its own that decides every request of a machine's processes, and records it.

    server       one machine: whose business a request is, and how everything ends
    processes    who lives, who forks, who has died       exchange  packets in, answers out
    service      requests over the model                  messages  what the packets say
    connections  one connection, credentials              segments  objects, sidebands, and when they end
    loop         waits for whatever happens next          audit     the record
    revocation/  what stops and sweeps everybody          zircon/   calls on VMARs, of the caller and of others

It maps no object and runs nobody's code. Whatever arrives, a packet, a descriptor or a death, never ends it and never
makes it wait.
"""
