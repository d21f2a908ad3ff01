"""What is allowed, and what is where: the rules over address spaces and memory objects.

Pure: no input or output, no clock, no processes, and nothing of capshm but the arithmetic of capabilities. Whoever
carries out asks first and tells afterwards: every decision is a `plan_...` that raises `Refusal` and changes nothing,
and a `commit_...` that cannot fail. Every refusal names its row (`capshm.model.rules`).

Nothing is imported here, so that the constants cost a client nothing.
"""
