/* SPDX-License-Identifier: Apache-2.0
 *
 * Operations that a backend lacks. One of them goes like this:
 *
 *     arguments --clone, walk--> ranges of device memory --sort, join--> blocks --download--> host memory
 *     arguments --clone, walk--> the same with host addresses --ml_ops_cpu--> host memory --upload--> device
 *
 * Ranges that overlap become one block, so that operands which share memory on the device share it here.
 */
#include "ops/fallback.h"

#include "base/checked.h"
#include "base/mem.h"
#include "ops/operands.h"

#include <stdlib.h>
#include <string.h>

enum { LINE = 64 };

/* Memory that grows and never shrinks. */
struct room {
    char *p;
    size_t bytes;
};

/* Bytes [begin, end) of device memory. */
struct range {
    uintptr_t begin, end;
    unsigned use; /* ML_OPERAND_IN | ML_OPERAND_OUT */
    size_t at;    /* of its copy in `data` */
};

struct fallback {
    const struct ml_ops *own;
    struct ml_device *host;
    struct ml_stream cpu;
    struct room clone, key, data, list; /* list: of struct range */
    size_t n;                           /* ranges */
    bool has_key;
    struct ml_stream *stream; /* of the operation at hand */
    marlin_status status;     /* the first failure since the last flush */
    struct marlin_error err;
};

/* In the token loop as well: what an operation needs is known only when it comes. */
static marlin_status allocate(struct fallback *f, struct room *r, size_t bytes) {
    const int guard = ml_mem_guard_pause();
    char *p = ml_alloc_aligned(bytes);
    ml_mem_guard_resume(guard);
    *r = (struct room){.p = p, .bytes = p ? bytes : 0};
    if (p) return MARLIN_OK;
    return ml_fail(&f->err, MARLIN_ERR_MEMORY, "cannot allocate %zu bytes for the copies of an operation",
                   bytes);
}

/* Contents are lost. */
static marlin_status reserve(struct fallback *f, struct room *r, size_t bytes) {
    if (bytes <= r->bytes) return MARLIN_OK;
    ml_free_aligned(r->p);
    return allocate(f, r, bytes);
}

static struct range *ranges(const struct fallback *f) {
    return (struct range *)(void *)f->list.p;
}

static marlin_status own_flush(const struct fallback *f, struct ml_stream *s, struct marlin_error *err) {
    return f->own->flush ? f->own->flush(s, err) : s->device->ops->stream_sync(s, err);
}

/* ---- the first walk: what is touched ---- */

static marlin_status longer_list(struct fallback *f) {
    const size_t used = f->n * sizeof(struct range);
    struct room longer;
    if (used < f->list.bytes) return MARLIN_OK;
    const marlin_status st = allocate(f, &longer, 2 * used + 64 * sizeof(struct range));
    if (st != MARLIN_OK) return st;
    if (f->list.p) memcpy(longer.p, f->list.p, used);
    ml_free_aligned(f->list.p);
    f->list = longer;
    return MARLIN_OK;
}

static marlin_status fetch_key(struct fallback *f, const void *address, size_t bytes) {
    const struct ml_device_ops *device = f->stream->device->ops;
    if (f->has_key) return ml_fail(&f->err, MARLIN_ERR_INTERNAL, "an operation with two keys");
    f->has_key = true;
    const marlin_status st = reserve(f, &f->key, bytes);
    if (st != MARLIN_OK) return st;
    device->download(f->stream, f->key.p, address, bytes);
    return device->stream_sync(f->stream, &f->err);
}

/* After a failure the walk goes on to no purpose, but not over a key. */
static void *collect(void *user, const void *address, size_t bytes, enum ml_operand_use use) {
    struct fallback *f = user;
    void *same = (void *)(uintptr_t)address;
    if (use == ML_OPERAND_KEY) {
        if (f->status == MARLIN_OK) f->status = fetch_key(f, address, bytes);
        return f->status == MARLIN_OK ? f->key.p : NULL;
    }
    if (f->status == MARLIN_OK) f->status = longer_list(f);
    if (f->status != MARLIN_OK) return same;
    const uintptr_t begin = (uintptr_t)address;
    ranges(f)[f->n++] = (struct range){.begin = begin, .end = begin + bytes, .use = use};
    return same;
}

static int by_address(const void *a, const void *b) {
    const struct range *x = a, *y = b;
    return (x->begin > y->begin) - (x->begin < y->begin);
}

static void join_overlapping(struct fallback *f) {
    struct range *r = ranges(f);
    size_t n = 0;
    if (f->n == 0) return;
    qsort(r, f->n, sizeof *r, by_address);
    for (size_t i = 1; i < f->n; i++) {
        if (r[i].begin >= r[n].end) {
            r[++n] = r[i];
            continue;
        }
        if (r[i].end > r[n].end) r[n].end = r[i].end;
        r[n].use |= r[i].use;
    }
    f->n = n + 1;
}

/* Copies stand in a cache line as the originals do: weights are read faster, some must be aligned. */
static marlin_status lay_out(struct fallback *f) {
    struct range *r = ranges(f);
    size_t at = 0;
    for (size_t i = 0; i < f->n; i++) {
        if (!ml_align_up(at, LINE, &at) || !ml_add_size(at, r[i].begin % LINE, &r[i].at) ||
            !ml_add_size(r[i].at, r[i].end - r[i].begin, &at))
            return ml_fail(&f->err, MARLIN_ERR_MEMORY, "the copies of an operation do not fit into memory");
    }
    return reserve(f, &f->data, at);
}

/* ---- the second walk: where it is now ---- */

static void *place(void *user, const void *address, size_t bytes, enum ml_operand_use use) {
    const struct fallback *f = user;
    const uintptr_t wanted = (uintptr_t)address;
    size_t low = 0, high = f->n;
    (void)bytes;
    if (use == ML_OPERAND_KEY) return f->key.p;
    while (high - low > 1) { /* the last block that begins at or before it */
        const size_t middle = low + (high - low) / 2;
        if (ranges(f)[middle].begin <= wanted)
            low = middle;
        else
            high = middle;
    }
    return f->data.p + ranges(f)[low].at + (wanted - ranges(f)[low].begin);
}

/* ---- an operation ---- */

static void copy_blocks(struct fallback *f, enum ml_operand_use use) {
    const struct ml_device_ops *device = f->stream->device->ops;
    for (const struct range *r = ranges(f), *end = r + f->n; r < end; r++) {
        char *copy = f->data.p + r->at, *original = (char *)r->begin;
        if (!(r->use & (unsigned)use)) continue;
        if (use == ML_OPERAND_IN)
            device->download(f->stream, copy, original, r->end - r->begin);
        else
            device->upload(f->stream, original, copy, r->end - r->begin);
    }
}

static void *walk(struct fallback *f, const struct ml_operands *op, const void *args,
                  void *(*visit)(void *, const void *, size_t, enum ml_operand_use)) {
    void *clone = op->clone(f->clone.p, args);
    op->visit(clone, &(struct ml_visitor){visit, f});
    return clone;
}

static marlin_status fetch(struct fallback *f, const struct ml_operands *op, const void *args) {
    marlin_status st;
    f->n = 0;
    f->has_key = false;
    ML_TRY(own_flush(f, f->stream, &f->err));
    ML_TRY(reserve(f, &f->clone, op->bytes(args)));
    (void)walk(f, op, args, collect);
    ML_TRY(f->status);
    join_overlapping(f);
    ML_TRY(lay_out(f));
    copy_blocks(f, ML_OPERAND_IN);
    st = f->stream->device->ops->stream_sync(f->stream, &f->err);
out:
    return st;
}

/* What is uploaded stays untouched until the next operation has waited for the stream. */
static void on_cpu(struct ml_stream *s, enum ml_op which, const void *args) {
    const struct ml_operands *op = &ml_operands[which];
    struct fallback *f = s->fallback;
    if (f->status != MARLIN_OK) return;
    f->stream = s;
    f->status = fetch(f, op, args);
    if (f->status != MARLIN_OK) return;
    op->run(&ml_ops_cpu, &f->cpu, walk(f, op, args, place));
    f->status = ml_ops_cpu.flush(&f->cpu, &f->err);
    if (f->status == MARLIN_OK) copy_blocks(f, ML_OPERAND_OUT);
}

/* ---- the rest of the table ---- */

static void close_filled(struct ml_stream *s) {
    struct fallback *f = s->fallback;
    if (!f) return;
    const struct ml_ops *own = f->own;
    (void)own_flush(f, s, NULL);
    ml_ops_cpu.close(&f->cpu);
    if (f->cpu.device) f->host->ops->stream_close(&f->cpu);
    if (f->host) f->host->ops->destroy(f->host);
    ml_free_aligned(f->clone.p);
    ml_free_aligned(f->key.p);
    ml_free_aligned(f->data.p);
    ml_free_aligned(f->list.p);
    ml_free(f);
    s->fallback = NULL;
    if (own->close) own->close(s);
}

static marlin_status open_filled(struct ml_stream *s, struct ml_pool *pool, const struct ml_ops_sizes *sizes,
                                 struct marlin_error *err) {
    const struct ml_ops_filled *filled = (const struct ml_ops_filled *)ml_ops_of(s->device);
    const struct ml_ops *own = filled->own;
    marlin_status st = own->open ? own->open(s, pool, sizes, err) : MARLIN_OK;
    if (st != MARLIN_OK) return st;
    struct fallback *f = ml_calloc(1, sizeof *f);
    s->fallback = f;
    if (!f) {
        if (own->close) own->close(s);
        return ml_fail(err, MARLIN_ERR_MEMORY, "operations that fall back: out of memory");
    }
    f->own = own;
    ML_TRY(ml_device_open("cpu", &f->host, err));
    ML_TRY(f->host->ops->stream_open(f->host, &f->cpu, err));
    st = ml_ops_cpu.open(&f->cpu, pool, sizes, err);
out:
    if (st != MARLIN_OK) close_filled(s);
    return st;
}

static marlin_status flush_filled(struct ml_stream *s, struct marlin_error *err) {
    struct fallback *f = s->fallback;
    const marlin_status own = own_flush(f, s, f->status == MARLIN_OK ? err : NULL);
    const marlin_status st = f->status;
    f->status = MARLIN_OK;
    if (st == MARLIN_OK) return own;
    if (err) *err = f->err;
    return st;
}

#define FALL_BACK(name)                                                                                      \
    static void name##_on_cpu(struct ml_stream *s, const struct ml_##name##_op *args) {                      \
        on_cpu(s, ML_OP_##name, args);                                                                       \
    }
ML_OPS(FALL_BACK)

const char *ml_ops_missing(const struct ml_ops *ops, size_t i) {
#define MISSING(name)                                                                                        \
    if ((!ops->name || ops->name == name##_on_cpu) && i-- == 0) return #name;
    ML_OPS(MISSING)
#undef MISSING
    return NULL;
}

void ml_ops_fill(struct ml_ops_filled *out, const struct ml_ops *own) {
    static const struct ml_ops nothing = {.name = "none"};
    out->own = own ? own : &nothing;
    out->ops = *out->own;
    if (!ml_ops_missing(out->own, 0) && own->open && own->close && own->flush && own->bytes) return;
    out->ops.open = open_filled;
    out->ops.close = close_filled;
    out->ops.flush = flush_filled;
    if (!out->ops.bytes) out->ops.bytes = ml_ops_cpu.bytes;
#define FILL(name)                                                                                           \
    if (!out->ops.name) out->ops.name = name##_on_cpu;
    ML_OPS(FILL)
#undef FILL
}
