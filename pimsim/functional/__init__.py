"""What value: the command program carried out on real numbers.

Reading order: `numerics` (number formats, the arithmetic of an in-bank MAC), then `functions` (the functions of the
ASIC as algorithms). Nothing here knows a cycle; what an operation costs is said by `pimsim.arch.functions`, from the
same parameters.
"""
