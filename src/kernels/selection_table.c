/* SPDX-License-Identifier: Apache-2.0
 *
 * What choices are made from where nobody has measured the machine at hand: one, more, fixed and row of every
 * kind (see selection.h), the least of several runs of `marlin kernels --tune --threads 1` on an Ice Lake
 * Xeon, 2.8 GHz, under each CPU mask. Absolute times differ between machines; what counts is their ratio
 * within a tier. NEON and i8mm were only run under an emulator, where times mean nothing: they take the
 * figures of AVX2, whose kernels have the same structure as NEON's. AMX takes those of AVX-512: it has
 * kernels of its own for many rows alone, and more than 8 go there in any case.
 */
#include "kernels/selection.h"

enum { FIGURES = 4 };

static const float avx512[ML_KINDS][FIGURES] = {
    {304, 5.06, 304, 19.4},   /* f32 */
    {144, 9.29, 144, 18.8},   /* f16 */
    {143, 8.89, 143, 19},     /* bf16 */
    {85.9, 2.12, 101, 3.49},  /* int8 */
    {27.3, 5.1, 46.2, 3.91},  /* tap2 */
    {42.6, 5.37, 63.7, 3.94}, /* tap3 */
    {51.6, 3.56, 65.8, 4.13}, /* tap4 */
    {73.1, 4.96, 94.7, 3.93}, /* tap5 */
    {84.7, 3.8, 104, 4.54},   /* tap6 */
    {131, 9.68, 174, 7.14},   /* exl3-3inst-1 */
    {131, 12.2, 184, 7.08},   /* exl3-3inst-2 */
    {115, 13, 198, 6.95},     /* exl3-3inst-3 */
    {132, 14, 196, 7.3},      /* exl3-3inst-4 */
    {131, 16.4, 208, 6.98},   /* exl3-3inst-5 */
    {136, 15.3, 208, 6.99},   /* exl3-3inst-6 */
    {141, 15.6, 224, 6.79},   /* exl3-3inst-7 */
    {142, 17, 207, 7.52},     /* exl3-3inst-8 */
    {101, 12.7, 146, 7.22},   /* exl3-mcg-1 */
    {101, 12.8, 154, 7.11},   /* exl3-mcg-2 */
    {101, 13.6, 165, 7.12},   /* exl3-mcg-3 */
    {102, 13.6, 179, 6.38},   /* exl3-mcg-4 */
    {107, 13.6, 176, 7.09},   /* exl3-mcg-5 */
    {112, 13.9, 180, 7.37},   /* exl3-mcg-6 */
    {118, 12.6, 189, 7.08},   /* exl3-mcg-7 */
    {118, 14.3, 194, 6.74},   /* exl3-mcg-8 */
    {46.8, 12.6, 101, 7.1},   /* exl3-mul1-1 */
    {47.4, 12.7, 112, 6.88},  /* exl3-mul1-2 */
    {53.1, 12.4, 124, 6.91},  /* exl3-mul1-3 */
    {61.6, 11.8, 129, 6.89},  /* exl3-mul1-4 */
    {70.9, 11.4, 141, 6.93},  /* exl3-mul1-5 */
    {80.2, 10.8, 141, 7.36},  /* exl3-mul1-6 */
    {93.8, 10.2, 163, 6.73},  /* exl3-mul1-7 */
    {95.8, 9.9, 150, 7.18},   /* exl3-mul1-8 */
};

static const float avx2[ML_KINDS][FIGURES] = {
    {282, 12.7, 444, 20.7},   /* f32 */
    {138, 13, 265, 20.4},     /* f16 */
    {133, 12.9, 260, 20.1},   /* bf16 */
    {108, 19.7, 108, 20.1},   /* int8 */
    {94.3, 19.2, 94.3, 19.1}, /* tap2 */
    {253, 16.1, 253, 19},     /* tap3 */
    {164, 20.2, 164, 19.4},   /* tap4 */
    {427, 16.1, 427, 19.7},   /* tap5 */
    {455, 11.4, 455, 18.3},   /* tap6 */
    {365, 22.2, 365, 20.5},   /* exl3-3inst-1 */
    {377, 21.9, 377, 19.8},   /* exl3-3inst-2 */
    {350, 25.9, 368, 20.9},   /* exl3-3inst-3 */
    {387, 23.2, 387, 21.1},   /* exl3-3inst-4 */
    {370, 24, 380, 20.8},     /* exl3-3inst-5 */
    {391, 22.3, 391, 20.6},   /* exl3-3inst-6 */
    {359, 28.6, 384, 21.7},   /* exl3-3inst-7 */
    {387, 22.9, 387, 21},     /* exl3-3inst-8 */
    {318, 22.5, 318, 20.7},   /* exl3-mcg-1 */
    {326, 21.5, 326, 21},     /* exl3-mcg-2 */
    {335, 23.2, 335, 20.6},   /* exl3-mcg-3 */
    {351, 22.7, 351, 21.4},   /* exl3-mcg-4 */
    {331, 24.5, 338, 21.3},   /* exl3-mcg-5 */
    {347, 23.6, 347, 20.8},   /* exl3-mcg-6 */
    {362, 20.8, 362, 20.8},   /* exl3-mcg-7 */
    {329, 24.2, 329, 21.1},   /* exl3-mcg-8 */
    {114, 22.2, 114, 20.3},   /* exl3-mul1-1 */
    {131, 21.5, 131, 20.9},   /* exl3-mul1-2 */
    {148, 21.3, 148, 20.2},   /* exl3-mul1-3 */
    {160, 22, 160, 20.5},     /* exl3-mul1-4 */
    {163, 22.3, 163, 20.7},   /* exl3-mul1-5 */
    {170, 24.1, 184, 20},     /* exl3-mul1-6 */
    {185, 22.9, 194, 20.2},   /* exl3-mul1-7 */
    {208, 19.4, 208, 20.8},   /* exl3-mul1-8 */
};

static const float generic[ML_KINDS][FIGURES] = {
    {1230, 1230, 1230, 1180}, /* f32 */
    {6220, 6220, 6220, 6570}, /* f16 */
    {1180, 1180, 1180, 1170}, /* bf16 */
    {242, 204, 242, 204},     /* int8 */
    {4750, 881, 4750, 879},   /* tap2 */
    {4850, 715, 4850, 704},   /* tap3 */
    {5570, 646, 5570, 759},   /* tap4 */
    {5170, 961, 5170, 721},   /* tap5 */
    {4750, 712, 4750, 719},   /* tap6 */
    {6460, 785, 6460, 801},   /* exl3-3inst-1 */
    {5970, 691, 5970, 711},   /* exl3-3inst-2 */
    {6140, 759, 6140, 729},   /* exl3-3inst-3 */
    {5860, 815, 5860, 803},   /* exl3-3inst-4 */
    {6410, 897, 6410, 808},   /* exl3-3inst-5 */
    {6690, 759, 6690, 838},   /* exl3-3inst-6 */
    {6460, 746, 6460, 782},   /* exl3-3inst-7 */
    {6470, 825, 6470, 948},   /* exl3-3inst-8 */
    {5790, 768, 5790, 990},   /* exl3-mcg-1 */
    {6310, 903, 6310, 818},   /* exl3-mcg-2 */
    {5980, 696, 5980, 744},   /* exl3-mcg-3 */
    {5790, 744, 5790, 729},   /* exl3-mcg-4 */
    {5910, 804, 5910, 795},   /* exl3-mcg-5 */
    {6500, 799, 6500, 818},   /* exl3-mcg-6 */
    {6890, 697, 6890, 750},   /* exl3-mcg-7 */
    {6290, 755, 6290, 846},   /* exl3-mcg-8 */
    {3870, 718, 3870, 723},   /* exl3-mul1-1 */
    {3900, 763, 3900, 748},   /* exl3-mul1-2 */
    {3960, 737, 3960, 722},   /* exl3-mul1-3 */
    {3970, 715, 3970, 706},   /* exl3-mul1-4 */
    {4180, 749, 4180, 815},   /* exl3-mul1-5 */
    {4260, 725, 4260, 708},   /* exl3-mul1-6 */
    {4340, 716, 4340, 720},   /* exl3-mul1-7 */
    {4460, 728, 4460, 746},   /* exl3-mul1-8 */
};

/* Rows of x in one pass: the tile of the plain kernels, and what every tier of the quantized ones takes. */
static int few_of(enum ml_cpu_tier tier, int kind) {
    static const int plain[ML_CPU_TIERS] = {1, 3, 6, 6, 6, 6};
    return kind < ML_KIND_INT8 ? plain[tier] : ML_QUANT_FEW_ROWS;
}

void ml_selection_default(struct ml_selection *s, const struct ml_machine *m) {
    static const float(*const tables[ML_CPU_TIERS])[FIGURES] = {generic, avx2, avx512, avx512, avx2, avx2};
    const float(*t)[FIGURES] = tables[m->cpu.tier];
    *s = (struct ml_selection){.machine = *m};
    for (int k = 0; k < ML_KINDS; k++)
        s->cost[k] = (struct ml_cost){few_of(m->cpu.tier, k), t[k][0], t[k][1], t[k][2], t[k][3]};
}
