/* SPDX-License-Identifier: Apache-2.0
 *
 * Bits for each tensor. They are chosen for groups: one role of one layer, all of its experts together, as
 * fused kernels of the EXL3 engine ask for.
 */
#ifndef ML_QUANTIZATION_ALLOCATE_H
#define ML_QUANTIZATION_ALLOCATE_H

#include "base/status.h"
#include "quantization/job/plan.h"

#include <stddef.h>

struct ml_allocation {
    double bits;        /* mean over the weights that the recipe leaves open; head not counted */
    int least, most;    /* bits that the format has */
    bool int8_rows;     /* it also has these: a recipe may say 8 for any tensor, the embedding among them */
    int lowest;         /* no tensor that the recipe leaves open gets fewer: floor(bits) unless measured */
    int head_bits;      /* ML_BITS_PLAIN: not quantized */
    const char *recipe; /* text, may be NULL */
    const double
        *loss; /* [layers][ML_ROLES] loss at unit relative error, any scale; NULL: built-in sensitivities */
};

/* Relative squared error of a Gaussian at b = 1..8 bits with the trellis codecs (measured; see
 * bench/results/quantization.md). */
double ml_bits_distortion(int bits);

/* Gives every tensor of the plan its bits: first the recipe, then the open groups greedily by loss saved for
 * each bit spent, which is optimal up to the last group that does not fit, because distortion is convex in
 * bits. The mean never exceeds a->bits. Deterministic. MARLIN_ERR_ARGUMENT when bits are out of range or the
 * recipe has an error (line and reason). */
marlin_status ml_allocate(struct ml_plan *plan, const struct ml_allocation *a,
                          struct marlin_error *err) MARLIN_MUST_CHECK;

/* A recipe has a line "PATTERN BITS" for each rule: shell patterns over names without ".weight"
 * ("model.layers.0.*", "*.v_proj", "lm_head"), the last rule that matches wins, "#" starts a comment.
 * Returns the bits for a name, 0 when no rule matches. The text has passed ml_recipe_check. */
int ml_recipe_bits(const char *recipe, const char *name);
/* The same for "model.embed_tokens", which rules of other bits than 8 and 16 do not concern ("* 4"). */
int ml_recipe_embedding_bits(const char *recipe);
/* a->recipe: bits must be in [least, most], 8 where the format has int8 rows, or 16 in a rule for "lm_head".
 * A rule whose pattern speaks of "embed" must match the embedding and say 16, or 8 with int8 rows. Named line
 * otherwise. */
marlin_status ml_recipe_check(const struct ml_allocation *a, struct marlin_error *err) MARLIN_MUST_CHECK;
/* A warning for each rule that fits no tensor of the plan: recipes may be shared by models, but most such
 * rules are misspelt. */
void ml_recipe_warn(const char *recipe, const struct ml_plan *plan);

#endif
