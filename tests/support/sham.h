/* SPDX-License-Identifier: Apache-2.0
 *
 * A device that is as unlike the CPU as host memory can be made, to prove that nothing but ops and copies
 * touches device memory, and that nobody relies on work being done when a call returns:
 *
 *   - its addresses are of a region that can be neither read nor written: using one as a pointer traps. The
 *     memory behind them is mapped elsewhere, and buffers have unmapped pages behind them; those that were
 *     freed are never given out again
 *   - new memory is full of NaN
 *   - a stream is a thread with a queue, which waits at random moments. An upload reads host memory only
 * then; a download fills it with rubbish at the call, and with the right bytes then
 *   - operations are those of ml_ops_cpu, on the stream's thread, over addresses that ops/operands.h names;
 *     an operand that is not within one living buffer of the device ends the process with a message
 *   - `wrap` is NULL
 *
 * It breaks off with a message where it runs out of anything: it is for tests alone.
 */
#ifndef ML_TESTS_SHAM_H
#define ML_TESTS_SHAM_H

#include "device/device.h"
#include "ops/operands.h"

struct sham_options {
    uint64_t seed;     /* of the delays */
    unsigned delay_us; /* the longest; 0: threads only yield now and then */
    uint32_t
        missing; /* bit ML_OP_x: the table lacks operation x, which falls back. All: it has no table at all */
};
enum { SHAM_NOTHING = (1u << ML_OP_COUNT) - 1 };

/* Close with d->ops->destroy, after its streams. */
struct ml_device *sham_open(const struct sham_options *options);

/* Between these nothing of the stream happens. Release before a wait. */
void sham_hold(struct ml_stream *s);
void sham_release(struct ml_stream *s);

/* Queues a failure, MARLIN_ERR_IO with this message, which the next stream_sync or flush reports. */
void sham_fail(struct ml_stream *s, const char *why);

/* Operations that the device's own table has computed, those that fell back not among them. */
uint64_t sham_computed(const struct ml_device *d);

#endif
