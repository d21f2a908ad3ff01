/* lock.pml: the lock of a tag line (native/sideband.h), whose holders die wherever they may, and its recovery.
 *
 * One granule. Storers store the number of their slot, one loader loads. Checked is that
 *
 *     what is loaded with its tag was stored together by one storer
 *     never two living storers hold the lock
 *     nobody waits for ever: the locks of the dead are freed, before their slots are used again
 *
 * A twin and data are stored in halves, which is less than what the core does, and allowed by its proof. Slot 1 is that of
 * a storer that may die, and of a newcomer that claims it after that: a lock that it left would be held by the living.
 *
 * Wrong variants, which must be found: NO_VERSION (unlocking does not count), LOOKS_ONCE (a load does not read the lock
 * again), NO_RECOVERY (a slot is claimed without freeing its lock), BLIND_RECOVERY (whoever recovers does
 * not look whether it is still the same lock).
 */
#define PROCESSES 3 /* 0: dies, perhaps; 1: lives on; 2: claims the slot of 0 when that is dead */
#define FREE 0
#ifdef NO_VERSION
#define NEXT(version) version
#else
#define NEXT(version) (version + 1)
#endif
#ifdef LOOKS_ONCE
#define IS_THE_SAME true
#else
#define IS_THE_SAME (holder == was && version == count)
#endif

byte holder;  /* the lock word's halves: slot of the holder ... */
byte version; /* ... and how often it was unlocked */
bool tag;
byte twin[2];
byte data[2];
byte owner[3] = 0;  /* of each slot: process + 1; slot 0 is nobody's */
bool target[3];     /* whether a slot names the line */
bool is_dead[PROCESSES];
bool is_finished[PROCESSES + 1];
byte inside;

#define SLOT(me) (me == 1 -> 2 : 1)
#define HOLDER_IS_DEAD (holder != FREE && owner[holder] != 0 && is_dead[owner[holder] - 1])

proctype Storer(byte me) provided (!is_dead[me]) {
    byte seen;

    if
    :: me != 2
    :: me == 2 -> /* claims the slot of the dead */
        if
        :: atomic { owner[1] == 1 && is_dead[0] -> skip }
        :: atomic { is_finished[0] && !is_dead[0] -> goto over } /* there will be none */
        fi;
#ifndef NO_RECOVERY
        if
        :: target[1] ->
            if
            :: atomic { holder == 1 -> seen = version }
                if
                :: atomic { holder == 1 && version == seen -> holder = FREE; version = NEXT(version) }
                :: atomic { else -> skip }
                fi
            :: else
            fi
        :: else
        fi;
#endif
        d_step { owner[1] = 3; target[1] = false; seen = 0 }
    fi;

    target[SLOT(me)] = true; /* (1) */
take:
    if
    :: atomic { holder == FREE -> holder = SLOT(me); assert(inside == 0); inside = me + 1 } /* (2) */
    :: atomic { HOLDER_IS_DEAD -> seen = version }
#ifdef BLIND_RECOVERY
        atomic { holder = FREE; version = NEXT(version); seen = 0 }
#else
        atomic {
            if
            :: HOLDER_IS_DEAD && version == seen -> holder = FREE; version = NEXT(version)
            :: else
            fi;
            seen = 0
        }
#endif
        goto take
    fi;
    tag = false; /* (3) */
    twin[0] = SLOT(me); /* (4) */
    twin[1] = SLOT(me);
    data[0] = SLOT(me); /* (5) */
    data[1] = SLOT(me);
    tag = true; /* (7) */
    d_step { /* (8) */
        inside = 0;
        holder = FREE;
        version = NEXT(version)
    };
    target[SLOT(me)] = false; /* (9) */
over:
    is_finished[me] = true
}

/* It can write no tag lines: it reads through the lock of a dead holder, whose tags are true. */
proctype Loader() {
    byte was, count, low, high, low_twin, high_twin;
    bool is_tagged;

again:
    atomic { holder == FREE || HOLDER_IS_DEAD -> was = holder; count = version } /* (1) */
    is_tagged = tag; /* (2) */
    low = data[0];
    high = data[1];
    low_twin = twin[0];
    high_twin = twin[1];
    if
    :: atomic { IS_THE_SAME -> skip } /* (3) */
    :: atomic { else -> was = 0; count = 0; is_tagged = 0; low = 0; high = 0; low_twin = 0; high_twin = 0; goto again }
    fi;
    assert(!(is_tagged && low == low_twin && high == high_twin) || (low == high && low != 0));
    is_finished[PROCESSES] = true
}

/* At any time, or never. What a dead holder was inside of it is not any more. */
proctype Deaths() {
    if
    :: atomic { !is_finished[0] -> is_dead[0] = true; inside = (inside == 1 -> 0 : inside) }
    :: true
    fi
}

/* When nothing moves any more. */
proctype Judge() {
    timeout;
    assert((is_finished[0] || is_dead[0]) && is_finished[1] && is_finished[2] && is_finished[PROCESSES])
}

init {
    atomic {
        owner[1] = 1;
        owner[2] = 2;
        run Storer(0);
        run Storer(1);
        run Storer(2);
        run Loader();
        run Deaths();
        run Judge()
    }
}
