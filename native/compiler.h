/* compiler.h: what gcc and clang are told beyond C. */
#ifndef CAPSHM_COMPILER_H
#define CAPSHM_COMPILER_H

#define likely(condition) __builtin_expect(!!(condition), 1)
#define unlikely(condition) __builtin_expect(!!(condition), 0)

#define ALWAYS_INLINE static inline __attribute__((always_inline))

#endif
