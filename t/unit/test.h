
/*
 * Copyright (C) kong-shift contributors
 */


#ifndef _TEST_H_INCLUDED_
#define _TEST_H_INCLUDED_


#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ngx_kong_shift_core.h"


static int  test_failed;


#define ok(cond)                                                              \
    do {                                                                      \
        if (!(cond)) {                                                        \
            fprintf(stderr, "%s:%d: not ok: %s\n", __FILE__, __LINE__,        \
                    #cond);                                                   \
            test_failed++;                                                    \
        }                                                                     \
    } while (0)

#define is(a, b)                                                              \
    do {                                                                      \
        long long  a_ = (long long) (a), b_ = (long long) (b);                \
                                                                              \
        if (a_ != b_) {                                                       \
            fprintf(stderr, "%s:%d: %s is %lld, not %lld\n",                  \
                    __FILE__, __LINE__, #a, a_, b_);                          \
            test_failed++;                                                    \
        }                                                                     \
    } while (0)

/* the same numbers in every run, below n */

static unsigned __attribute__((unused))
test_random(unsigned n)
{
    static uint64_t  x = 88172645463325252ULL;

    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;

    return (unsigned) ((x >> 32) % n);
}


#define done()  return test_failed != 0


#endif /* _TEST_H_INCLUDED_ */
