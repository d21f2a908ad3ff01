"""The broker: a process of its own that decides every request of a machine's processes, and records it.

    connections  packets, credentials, descriptors       messages  what the packets say
    loop         waits for whatever happens next          segments  objects, sidebands, and when they end
    service      requests over the model                  audit     the record
    processes    who lives, who forks, who has died

It maps no object and runs nobody's code. Whatever arrives, a packet, a descriptor or a death, never ends it and never
makes it wait.
"""
