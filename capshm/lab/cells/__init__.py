"""What runs in the processes of a cell: its worlds, its crew, and what workloads are made of."""
