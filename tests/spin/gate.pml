/* gate.pml: the stop protocol of native/gate.h, and what is swept behind it, with everybody dying wherever they may.
 *
 * One value is painted. At first it has its tag, in memory and in every register; a pass takes it from memory, and each
 * thread from its own registers before its next operation. Checked is that
 *
 *     nobody is inside an operation while a living closer sweeps
 *     no operation that begins after a pass has returned uses the value, and it is never in memory again
 *     nobody waits for ever: in the end all that live have come to their end
 *
 * A flag is stored twice: own[] as its thread sees it, flag[] as the others do. What is between the two is the store
 * buffer, which empties at any time, and at the closer's barrier. Time does not exist: to be stopped is to be slow, and a
 * closer that sees a flag may wait, or give up. Closer 1 is the keeper (the broker), 2 may be anybody.
 *
 * Wrong variants, which must be found: NO_BARRIER, CLOSES_EARLY (a flag that is set is not waited for), STALE_REGISTERS
 * (nothing is swept before the next operation), FORGETS_THE_DEAD (nobody looks whether a closer still lives).
 */
#define THREADS 2
#define CLOSERS 2
#define KEEPER 1
#ifndef OPERATIONS
#define OPERATIONS 1 /* of each thread */
#endif
#ifndef WITHOUT
#define WITHOUT 0 /* the closer that has no part: with both there are a hundred times as many states */
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 1 /* of each closer */
#endif

byte closer;   /* the signal's two halves: who has closed the gate, 0 while it is open ... */
byte openings; /* ... and how often it has been opened */
byte passes;   /* that have swept memory */
byte sweeping; /* which closer does */
bool flag[THREADS];
bool own[THREADS];
bool is_dead[THREADS];
bool is_finished[THREADS];
bool is_closer_dead[CLOSERS + 1];
bool is_closer_finished[CLOSERS + 1];
bool memory = true;
bool has_returned;

#ifdef STALE_REGISTERS
#define IS_DUE false
#else
#define IS_DUE (swept != passes)
#endif
#ifdef FORGETS_THE_DEAD
#define SEEMS_DEAD(who) false
#else
#define SEEMS_DEAD(who) is_closer_dead[who]
#endif
#define IS_SWEEPING (sweeping != 0 && !is_closer_dead[sweeping])

#ifndef CLOSES_EARLY
#define CLOSES_EARLY false
#endif

proctype Thread(byte me) provided (!is_dead[me]) {
    byte seen, opened, swept, left = OPERATIONS;
    bool held = true;
    bool is_late;

next:
    if
    :: left == 0 -> goto over
    :: else -> d_step { left--; is_late = has_returned }
    fi;

enter:
    own[me] = true; /* (1); then only a compiler barrier, and (3) reads the signal, one word */
    if
    :: atomic { closer == 0 && openings == seen -> goto inside }
    :: atomic { else -> own[me] = false }
    fi;

wait:
    if
    :: atomic { closer == 0 && !IS_DUE -> seen = openings; goto enter }
    :: atomic { closer == 0 && IS_DUE -> opened = openings }
    :: atomic { closer != 0 && closer != KEEPER && SEEMS_DEAD(closer) -> closer = 0; openings++; goto wait }
    :: atomic { closer == KEEPER && SEEMS_DEAD(KEEPER) -> goto over } /* BrokerGone */
    fi;
    own[me] = true; /* sweeping is done inside the gate */
    if
    :: atomic { closer == 0 && openings == opened -> held = false; swept = passes }
    :: atomic { else -> skip }
    fi;
    d_step { own[me] = false; opened = 0 };
    goto wait;

inside:
    assert(!IS_SWEEPING);
    if
    :: atomic { held -> assert(!is_late); memory = true } /* store */
    :: atomic { memory -> assert(!is_late); held = true } /* load */
    :: true
    fi;
    d_step {
        assert(!IS_SWEEPING && !(has_returned && memory));
        own[me] = false; /* (5) */
        is_late = false
    };
    goto next;

over:
    is_finished[me] = true
}

proctype Closer(byte me) provided (!is_closer_dead[me]) {
    byte i, attempts = ATTEMPTS;
    bool is_incomplete;

again:
    if
    :: attempts == 0 -> goto over
    :: else -> d_step { attempts--; is_incomplete = false; i = 0 }
    fi;
take:
    if
    :: atomic { closer == 0 -> closer = me } /* (1) */
    :: atomic { closer != 0 && closer != KEEPER && SEEMS_DEAD(closer) -> closer = 0; openings++; goto take }
    :: atomic { closer == KEEPER && SEEMS_DEAD(KEEPER) -> goto over }
    fi;
#ifndef NO_BARRIER
    do /* (2): each processor in its turn */
    :: d_step { i < THREADS -> flag[i] = own[i]; i++ }
    :: d_step { i == THREADS -> i = 0 }; break
    od;
#endif
    do /* (3) */
    :: d_step { i < THREADS && (!flag[i] || is_dead[i] || CLOSES_EARLY) -> i++ }
    :: d_step { i < THREADS && flag[i] && !CLOSES_EARLY -> is_incomplete = true; i++ } /* it has waited long enough */
    :: i == THREADS -> break
    od;
    if
    :: atomic { is_incomplete -> closer = 0; openings++; goto again }
    :: atomic { else -> sweeping = me; memory = false }
    fi;
    d_step {
        passes++;
        sweeping = 0
    };
    d_step {
        closer = 0;
        openings++
    };
    has_returned = true;

over:
    is_closer_finished[me] = true
}

/* Stores become visible. */
proctype Buffers() {
end:
    do
    :: flag[0] != own[0] -> flag[0] = own[0]
    :: flag[1] != own[1] -> flag[1] = own[1]
    od
}

/* At any time, or never. */
proctype Deaths() {
    if
    :: is_dead[0] = true
    :: skip
    fi;
    if
    :: WITHOUT != 1 -> is_closer_dead[1] = true
    :: WITHOUT != 2 -> is_closer_dead[2] = true
    :: skip
    fi
}

/* When nothing moves any more. */
proctype Judge() {
    timeout;
    assert((is_finished[0] || is_dead[0]) && is_finished[1]);
    assert(is_closer_finished[1] || is_closer_dead[1]);
    assert(is_closer_finished[2] || is_closer_dead[2])
}

init {
    atomic {
        run Thread(0);
        run Thread(1);
        if
        :: WITHOUT != 1 -> run Closer(1)
        :: else -> is_closer_finished[1] = true
        fi;
        if
        :: WITHOUT != 2 -> run Closer(2)
        :: else -> is_closer_finished[2] = true
        fi;
        run Buffers();
        run Deaths();
        run Judge()
    }
}

