/* SPDX-License-Identifier: Apache-2.0
 *
 * What an operation reads and writes: for every entry of ML_OPS a deep copy of its arguments, and a walk over
 * the device addresses in such a copy. Whoever takes an operation to another place than the memory that its
 * arguments point to (ops/fallback, devices that compute later or elsewhere) moves the operands that the walk
 * names, puts the new addresses in and calls the operation with the copy.
 *
 * The walk knows nothing of overlaps: two operands of an operation may cover the same bytes (y = norm(x) in
 * place, rows of one matrix that several products fill), and a mover must keep them together.
 *
 * Tables of tap codes are host memory that belongs to the library or the model; copies point to the same. Any
 * thread.
 */
#ifndef ML_OPS_OPERANDS_H
#define ML_OPS_OPERANDS_H

#include "ops/ops.h"

enum ml_op {
#define ML_OPS_NUMBER(name) ML_OP_##name,
    ML_OPS(ML_OPS_NUMBER)
#undef ML_OPS_NUMBER
        ML_OP_COUNT
};

enum ml_operand_use {
    ML_OPERAND_IN = 1,
    ML_OPERAND_OUT = 2,   /* written whole, or work memory whose contents mean nothing afterwards */
    ML_OPERAND_INOUT = 3, /* read, or written in part */
    /* Read, by the walk as well: it decides what else is touched. At most one of an operation. What the
     * visitor returns must be readable by the host at once, and a copy of its own that the walk may change:
     * the entries of a page table are operands too, and their new addresses are put there. NULL ends the
     * walk: the clone is good for nothing then. */
    ML_OPERAND_KEY = 4
};

/* `bytes` bytes at the device address are an operand. Returns the address to put in its place. Not called for
 * NULL nor for 0 bytes. */
struct ml_visitor {
    void *(*visit)(void *user, const void *address, size_t bytes, enum ml_operand_use use);
    void *user;
};

struct ml_operands {
    const char *name; /* "rope_store" */
    /* Bytes that `clone` takes. */
    size_t (*bytes)(const void *args);
    /* Copies the arguments (struct ml_<name>_op) and all host memory behind them to `to`, aligned for any
     * type and ml_operands.bytes long, which is returned. Device addresses stay. */
    void *(*clone)(void *to, const void *args);
    /* Visits every device address of a clone, and puts what comes back in its place. Experts that no row
     * chose and pages that no row touches are left out, and keep their addresses. */
    void (*visit)(void *clone, const struct ml_visitor *v);
    /* The operation of a table, which must have it. */
    void (*run)(const struct ml_ops *ops, struct ml_stream *s, const void *args);
};

extern const struct ml_operands ml_operands[ML_OP_COUNT];

#endif
