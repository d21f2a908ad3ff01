"""Wrong variants of the model of VMARs: what each changes, why it is wrong, and the quick test that must find it.

The text that a bug replaces must be there exactly once: when the model moves on, the bug must follow.
"""

from dataclasses import dataclass

CHANGING = "tests/unit/test_model_vmar_changing.py"
CAPABILITIES = "tests/unit/test_model_vmar_capabilities.py"


@dataclass(frozen=True)
class ModelBug:
    """module: in capshm.model."""

    name: str
    why: str
    module: str
    old: str
    new: str
    found_by: str


MODEL_BUGS = [
    ModelBug(
        "a-parent-raises",
        "an ancestor may raise what lives in a child region, up to its maximum",
        "vmar_changing",
        "if missing := wanted & ~entry.current:",
        "if missing := wanted & ~entry.maximum:",
        f"{CHANGING}::test_2_8_worked_examples",
    ),
    ModelBug(
        "a-parent-gives-capabilities-back",
        "an ancestor may raise nothing but capability permission",
        "vmar_changing",
        "if missing := wanted & ~entry.current:",
        "if missing := wanted & ~entry.current & ~Rights.CAP:",
        f"{CAPABILITIES}::test_taken_from_above_and_not_given_back",
    ),
    ModelBug(
        "the-first-mapping-speaks-for-all",
        "maximum and region of the mappings behind the first one in a range are not looked at",
        "vmar_changing",
        "        _check_protect(caller, entry, wanted, asked)\n",
        "        if not planned:\n            _check_protect(caller, entry, wanted, asked)\n",
        f"{CHANGING}::test_1_3_row_8_the_lowest_offending_address_decides",
    ),
    ModelBug(
        "half-a-range",
        "what lies before the mapping that refuses has been changed",
        "vmar_changing",
        "        planned.append(entry._replace(current=wanted))\n",
        "        planned.append(entry._replace(current=wanted))\n        caller.vmar.space.replace(planned[-1])\n",
        f"{CHANGING}::test_2_8_worked_examples",
    ),
    ModelBug(
        "ended-and-mapped",
        "a destroyed region is gone, and what was mapped in it is not",
        "vmar_changing",
        "    gone = space.remove(removal.start, removal.end)\n",
        "    gone: list[Entry] = []\n",
        f"{CHANGING}::test_1_5",
    ),
    ModelBug(
        "op-children-for-the-empty",
        "a child region without mappings is unmapped through a handle that may not reach it",
        "vmar_changing",
        '        if not caller.may_reach_children:\n            raise caller.refuse_children("vmar:1.4/7"',
        "        if caller.vmar.space.overlapping(child.start, child.end) and not caller.may_reach_children:\n"
        '            raise caller.refuse_children("vmar:1.4/7"',
        f"{CHANGING}::test_1_4_row_7",
    ),
    ModelBug(
        "duplicates-have-all-rights",
        "a handle's duplicate has the rights that were not asked for as well",
        "handles",
        "            raise ValueError\n        return rights\n",
        "            raise ValueError\n        return self.rights\n",
        "tests/unit/test_model_handles.py::test_duplicating_never_gains",
    ),
    ModelBug(
        "capabilities-without-the-right",
        "the handles' RIGHT_CAP is not asked for the maximum: what was mapped without it gets it later",
        "vmar_mapping",
        "rights_of_handle(vmar[1] & vmo[1])",
        "rights_of_handle(vmar[1] & vmo[1] | z.RIGHT_CAP)",
        f"{CAPABILITIES}::test_the_handles_need_the_right",
    ),
    ModelBug(
        "barred-at-first-only",
        "whom the policy keeps from a VMO's capabilities may not map them, and may ask for them afterwards",
        "vmar_mapping",
        "        maximum = maximum.without(Rights.CAP)\n",
        "        pass\n",
        f"{CAPABILITIES}::test_who_is_barred_maps_data",
    ),
]
