/* SPDX-License-Identifier: Apache-2.0
 *
 * What choices are made from where nobody has measured the machine at hand: one, more, fixed and row of every
 * kind (see selection.h), the least of several runs of `marlin kernels --tune --threads 1` on an Ice Lake
 * Xeon, 2.8 GHz, under each CPU mask. Absolute times differ between machines; what counts is their ratio
 * within a tier. NEON was only run under an emulator, where times mean nothing: it takes the figures of AVX2,
 * whose kernels have the same structure.
 */
#include "kernels/selection.h"

enum { FIGURES = 4 };

static const float avx512[ML_KINDS][FIGURES] = {
    {297, 9.79, 185, 26.4},   /* f32 */
    {144, 9.03, 63.8, 21},    /* f16 */
    {145, 10.1, 59.2, 21.6},  /* bf16 */
    {86.2, 2.11, 104, 3.45},  /* int8 */
    {26.8, 6.84, 47.1, 3.92}, /* tap2 */
    {40.9, 6.85, 63.1, 4},    /* tap3 */
    {48.7, 6.5, 66.7, 4.03},  /* tap4 */
    {72.5, 7.1, 92.9, 4.23},  /* tap5 */
    {82.6, 7.18, 105, 4.05},  /* tap6 */
    {132, 13.3, 178, 7.13},   /* exl3-3inst-1 */
    {131, 13.6, 187, 7.03},   /* exl3-3inst-2 */
    {131, 13.9, 206, 6.8},    /* exl3-3inst-3 */
    {133, 13.6, 199, 7.26},   /* exl3-3inst-4 */
    {134, 13.9, 202, 7.56},   /* exl3-3inst-5 */
    {138, 13.9, 215, 6.95},   /* exl3-3inst-6 */
    {144, 13.7, 242, 6.86},   /* exl3-3inst-7 */
    {143, 14.2, 217, 7.06},   /* exl3-3inst-8 */
    {101, 12.8, 146, 7.18},   /* exl3-mcg-1 */
    {99.9, 13.6, 156, 7.03},  /* exl3-mcg-2 */
    {102, 13.7, 166, 7.19},   /* exl3-mcg-3 */
    {103, 13.6, 169, 7.25},   /* exl3-mcg-4 */
    {107, 13.6, 177, 7.28},   /* exl3-mcg-5 */
    {112, 13.5, 185, 7.09},   /* exl3-mcg-6 */
    {119, 13.4, 188, 7.47},   /* exl3-mcg-7 */
    {121, 13.5, 181, 8.01},   /* exl3-mcg-8 */
    {46.9, 14.1, 98.9, 7.17}, /* exl3-mul1-1 */
    {47.8, 14, 112, 7.01},    /* exl3-mul1-2 */
    {53.5, 13.9, 127, 6.94},  /* exl3-mul1-3 */
    {64.6, 13.3, 131, 7.35},  /* exl3-mul1-4 */
    {71.4, 14.1, 153, 6.62},  /* exl3-mul1-5 */
    {81.3, 13, 144, 7.14},    /* exl3-mul1-6 */
    {88.1, 13.4, 165, 6.81},  /* exl3-mul1-7 */
    {96.6, 13.9, 163, 6.9},   /* exl3-mul1-8 */
};

static const float avx2[ML_KINDS][FIGURES] = {
    {280, 20.5, 433, 19.6},   /* f32 */
    {135, 12.4, 268, 21.4},   /* f16 */
    {137, 14.1, 264, 21.5},   /* bf16 */
    {102, 21.2, 86.6, 21.4},  /* int8 */
    {95.7, 18.8, 65.1, 20.8}, /* tap2 */
    {255, 17.1, 213, 20.2},   /* tap3 */
    {169, 21.4, 144, 20},     /* tap4 */
    {444, 16.9, 409, 21.4},   /* tap5 */
    {466, 15.1, 384, 21.1},   /* tap6 */
    {370, 22.3, 355, 20.7},   /* exl3-3inst-1 */
    {383, 21.4, 365, 21},     /* exl3-3inst-2 */
    {356, 26.8, 376, 20.8},   /* exl3-3inst-3 */
    {418, 27.6, 427, 19.4},   /* exl3-3inst-4 */
    {374, 26.5, 381, 21.9},   /* exl3-3inst-5 */
    {403, 22.3, 390, 21.1},   /* exl3-3inst-6 */
    {379, 28.3, 416, 21},     /* exl3-3inst-7 */
    {398, 22.1, 383, 22.4},   /* exl3-3inst-8 */
    {318, 22.6, 317, 20.4},   /* exl3-mcg-1 */
    {327, 24.2, 324, 21.5},   /* exl3-mcg-2 */
    {348, 21.8, 333, 20.9},   /* exl3-mcg-3 */
    {365, 20.4, 332, 22.2},   /* exl3-mcg-4 */
    {330, 25.5, 336, 21.9},   /* exl3-mcg-5 */
    {360, 23.2, 359, 20.9},   /* exl3-mcg-6 */
    {339, 28.6, 371, 20.8},   /* exl3-mcg-7 */
    {336, 26.4, 370, 19.8},   /* exl3-mcg-8 */
    {115, 22.2, 107, 20.6},   /* exl3-mul1-1 */
    {137, 21.6, 114, 21.8},   /* exl3-mul1-2 */
    {153, 21.9, 139, 20.8},   /* exl3-mul1-3 */
    {172, 21.1, 147, 22.2},   /* exl3-mul1-4 */
    {178, 22.9, 138, 24.2},   /* exl3-mul1-5 */
    {183, 23.8, 174, 21.3},   /* exl3-mul1-6 */
    {186, 24.4, 175, 22.8},   /* exl3-mul1-7 */
    {213, 20.2, 165, 23.6},   /* exl3-mul1-8 */
};

static const float generic[ML_KINDS][FIGURES] = {
    {1230, 1230, 101, 1210},  /* f32 */
    {6220, 6220, 44.2, 6740}, /* f16 */
    {1180, 1180, 0, 1200},    /* bf16 */
    {242, 204, 26.3, 210},    /* int8 */
    {4750, 881, 4300, 891},   /* tap2 */
    {4850, 715, 4230, 722},   /* tap3 */
    {5570, 646, 4400, 792},   /* tap4 */
    {5170, 961, 4770, 732},   /* tap5 */
    {4750, 712, 3850, 744},   /* tap6 */
    {6460, 785, 5840, 819},   /* exl3-3inst-1 */
    {5970, 691, 4900, 740},   /* exl3-3inst-2 */
    {6140, 759, 5210, 755},   /* exl3-3inst-3 */
    {5860, 815, 5100, 824},   /* exl3-3inst-4 */
    {6410, 897, 5480, 834},   /* exl3-3inst-5 */
    {6690, 759, 5250, 878},   /* exl3-3inst-6 */
    {6460, 746, 5180, 818},   /* exl3-3inst-7 */
    {6470, 825, 5410, 978},   /* exl3-3inst-8 */
    {5790, 768, 3950, 1040},  /* exl3-mcg-1 */
    {6310, 903, 6200, 821},   /* exl3-mcg-2 */
    {5980, 696, 5490, 757},   /* exl3-mcg-3 */
    {5790, 744, 4770, 757},   /* exl3-mcg-4 */
    {5910, 804, 4990, 820},   /* exl3-mcg-5 */
    {6500, 799, 5340, 850},   /* exl3-mcg-6 */
    {6890, 697, 5070, 800},   /* exl3-mcg-7 */
    {6290, 755, 5670, 863},   /* exl3-mcg-8 */
    {3870, 718, 2970, 748},   /* exl3-mul1-1 */
    {3900, 763, 3620, 756},   /* exl3-mul1-2 */
    {3960, 737, 3040, 748},   /* exl3-mul1-3 */
    {3970, 715, 3730, 712},   /* exl3-mul1-4 */
    {4180, 749, 2810, 853},   /* exl3-mul1-5 */
    {4260, 725, 3450, 731},   /* exl3-mul1-6 */
    {4340, 716, 3780, 736},   /* exl3-mul1-7 */
    {4460, 728, 3320, 778},   /* exl3-mul1-8 */
};

/* Rows of x in one pass: the tile of the plain kernels, and what every tier of the quantized ones takes. */
static int few_of(enum ml_cpu_tier tier, int kind) {
    static const int plain[ML_CPU_TIERS] = {1, 3, 6, 6};
    return kind < ML_KIND_INT8 ? plain[tier] : ML_QUANT_FEW_ROWS;
}

void ml_selection_default(struct ml_selection *s, const struct ml_machine *m) {
    static const float(*const tables[ML_CPU_TIERS])[FIGURES] = {generic, avx2, avx512, avx2};
    const float(*t)[FIGURES] = tables[m->cpu.tier];
    *s = (struct ml_selection){.machine = *m};
    for (int k = 0; k < ML_KINDS; k++)
        s->cost[k] = (struct ml_cost){few_of(m->cpu.tier, k), t[k][0], t[k][1], t[k][2], t[k][3]};
}
