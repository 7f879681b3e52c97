/* SPDX-License-Identifier: Apache-2.0
 *
 * Contracts between our own functions: what a caller must have seen to before it calls (dimensions, ranges,
 * order), so that a mistake stops where it was made. Never for data: what comes from files, options or users
 * is checked always and answered with a marlin_status.
 *
 *   ML_ASSERT(c)        cheap, a few instructions: on where MARLIN_ASSERT is 1, as without NDEBUG, or 2
 *   ML_ASSERT_SLOW(c)   may loop over an array: on where MARLIN_ASSERT is 2, as in sanitizer builds
 *
 * Switched off, the condition is compiled but not evaluated: it must have no side effects. A failing one
 * prints file, line and condition, and aborts.
 */
#ifndef ML_BASE_ASSERT_H
#define ML_BASE_ASSERT_H

#ifndef MARLIN_ASSERT
#ifdef NDEBUG
#define MARLIN_ASSERT 0
#else
#define MARLIN_ASSERT 1
#endif
#endif

#define ML_ASSERT_ON(c)  ((c) ? (void)0 : ml_assert_failed(__FILE__, __LINE__, #c))
#define ML_ASSERT_OFF(c) ((void)(0 && (c)))

#if MARLIN_ASSERT >= 1
#define ML_ASSERT(c) ML_ASSERT_ON(c)
#else
#define ML_ASSERT(c) ML_ASSERT_OFF(c)
#endif
#if MARLIN_ASSERT >= 2
#define ML_ASSERT_SLOW(c) ML_ASSERT_ON(c)
#else
#define ML_ASSERT_SLOW(c) ML_ASSERT_OFF(c)
#endif

__attribute__((noreturn, cold)) void ml_assert_failed(const char *file, int line, const char *condition);

#endif
