/* SPDX-License-Identifier: Apache-2.0
 *
 * What choices are made from where nobody has measured the machine at hand: one, more, fixed and row of every
 * kind (see selection.h), the median of three runs of `marlin kernels --tune --threads 1` under each CPU mask
 * (bench/selection_table.py): of AVX2 and AVX-512 on a Zen 5 EPYC, of AMX on a Xeon of the Sapphire Rapids
 * kind, of portable C on an Ice Lake Xeon. Absolute times differ between machines; what counts is their ratio
 * within a tier. Only NEON and i8mm borrow: they were only run under an emulator, where times mean nothing,
 * and take the figures of AVX2, whose kernels have the same structure as NEON's.
 */
#include "kernels/selection.h"

enum { FIGURES = 4 };

static const float avx512[ML_KINDS][FIGURES] = {
    {108, 14.3, 108, 13.2},   /* f32 */
    {59, 3.66, 59, 12.5},     /* f16 */
    {57.6, 5, 57.6, 12.7},    /* bf16 */
    {25, 2.64, 73.1, 2.03},   /* int8 */
    {8.27, 3.59, 33.9, 2.29}, /* tap2 */
    {11.4, 3.47, 44.8, 2.33}, /* tap3 */
    {13.5, 2.86, 44.8, 2.49}, /* tap4 */
    {19.1, 3.34, 64.7, 2.46}, /* tap5 */
    {21.3, 3.17, 57.9, 2.37}, /* tap6 */
    {59.5, 5.9, 74.1, 4.13},  /* exl3-3inst-1 */
    {59.3, 6.68, 73.7, 4.13}, /* exl3-3inst-2 */
    {55.8, 7.5, 74.4, 4.14},  /* exl3-3inst-3 */
    {59.8, 7.06, 73.9, 4.16}, /* exl3-3inst-4 */
    {57.2, 7.81, 75.8, 4.14}, /* exl3-3inst-5 */
    {57.6, 7.87, 76.4, 4.13}, /* exl3-3inst-6 */
    {59.5, 7.69, 79.2, 4.12}, /* exl3-3inst-7 */
    {62.1, 7.29, 77.1, 4.15}, /* exl3-3inst-8 */
    {43.5, 6.16, 58.4, 4.15}, /* exl3-mcg-1 */
    {43.6, 6.3, 58.3, 4.12},  /* exl3-mcg-2 */
    {43.5, 6.6, 60.2, 4.12},  /* exl3-mcg-3 */
    {44.4, 6.66, 58.9, 4.13}, /* exl3-mcg-4 */
    {43.8, 6.82, 62.1, 4.13}, /* exl3-mcg-5 */
    {44.1, 6.95, 60.5, 4.14}, /* exl3-mcg-6 */
    {45.3, 6.9, 63.4, 4.14},  /* exl3-mcg-7 */
    {46.3, 7.1, 64.4, 4.14},  /* exl3-mcg-8 */
    {24.2, 6.31, 38.7, 4.16}, /* exl3-mul1-1 */
    {24, 6.37, 39.3, 4.15},   /* exl3-mul1-2 */
    {24.7, 6.28, 40.6, 4.11}, /* exl3-mul1-3 */
    {24, 6.48, 42, 4.17},     /* exl3-mul1-4 */
    {25, 6.58, 40.2, 4.13},   /* exl3-mul1-5 */
    {25.6, 6.59, 43.6, 4.1},  /* exl3-mul1-6 */
    {26, 6.59, 60.4, 4.08},   /* exl3-mul1-7 */
    {25.7, 6.69, 118, 4.33},  /* exl3-mul1-8 */
};

static const float amx[ML_KINDS][FIGURES] = {
    {297, 12.1, 297, 16.5},   /* f32 */
    {163, 5.33, 163, 16.2},   /* f16 */
    {162, 6.35, 162, 16.2},   /* bf16 */
    {67.2, 5.03, 113, 1.09},  /* int8 */
    {22.1, 5.49, 53.2, 1.74}, /* tap2 */
    {34.9, 4.94, 65.5, 1.73}, /* tap3 */
    {42.4, 3.35, 74.1, 1.61}, /* tap4 */
    {60.7, 5.53, 97.7, 1.57}, /* tap5 */
    {72.9, 4.24, 105, 1.53},  /* tap6 */
    {166, 12.6, 270, 2.48},   /* exl3-3inst-1 */
    {166, 12.8, 273, 2.57},   /* exl3-3inst-2 */
    {166, 13.5, 284, 2.65},   /* exl3-3inst-3 */
    {165, 13.6, 298, 2.76},   /* exl3-3inst-4 */
    {165, 14.2, 302, 2.73},   /* exl3-3inst-5 */
    {165, 14.2, 315, 2.73},   /* exl3-3inst-6 */
    {167, 14.2, 307, 2.84},   /* exl3-3inst-7 */
    {169, 13.5, 307, 2.85},   /* exl3-3inst-8 */
    {134, 12, 241, 2.35},     /* exl3-mcg-1 */
    {132, 12.2, 242, 2.46},   /* exl3-mcg-2 */
    {132, 13, 254, 2.87},     /* exl3-mcg-3 */
    {134, 12.4, 266, 2.73},   /* exl3-mcg-4 */
    {130, 12.5, 271, 2.91},   /* exl3-mcg-5 */
    {135, 12.6, 272, 2.59},   /* exl3-mcg-6 */
    {136, 12.8, 282, 2.91},   /* exl3-mcg-7 */
    {132, 13.3, 261, 3.45},   /* exl3-mcg-8 */
    {46.5, 11.8, 152, 1.93},  /* exl3-mul1-1 */
    {46, 12.3, 151, 2.84},    /* exl3-mul1-2 */
    {46.1, 11.9, 164, 2.54},  /* exl3-mul1-3 */
    {48.3, 11.7, 181, 2.59},  /* exl3-mul1-4 */
    {56.3, 12.2, 186, 2.76},  /* exl3-mul1-5 */
    {65.2, 11.1, 197, 2.63},  /* exl3-mul1-6 */
    {74.8, 10.1, 201, 2.36},  /* exl3-mul1-7 */
    {84, 8.88, 211, 2.7},     /* exl3-mul1-8 */
};

static const float avx2[ML_KINDS][FIGURES] = {
    {108, 16.7, 283, 15.3},   /* f32 */
    {52, 19.6, 204, 15},      /* f16 */
    {52.6, 19.5, 215, 15},    /* bf16 */
    {25.1, 9.92, 25.1, 9.39}, /* int8 */
    {25.4, 5.11, 46.4, 5.66}, /* tap2 */
    {39.8, 6.84, 77.7, 5.74}, /* tap3 */
    {37.3, 6.39, 65.1, 5.78}, /* tap4 */
    {63.8, 7.66, 110, 5.84},  /* tap5 */
    {64, 7.72, 104, 5.82},    /* tap6 */
    {273, 18.9, 273, 17.1},   /* exl3-3inst-1 */
    {281, 18.7, 281, 17.4},   /* exl3-3inst-2 */
    {265, 22.1, 275, 17.9},   /* exl3-3inst-3 */
    {295, 19.6, 297, 17.5},   /* exl3-3inst-4 */
    {267, 24.4, 292, 18},     /* exl3-3inst-5 */
    {271, 24.9, 305, 18.1},   /* exl3-3inst-6 */
    {279, 26.1, 320, 17.9},   /* exl3-3inst-7 */
    {262, 28.4, 318, 17.8},   /* exl3-3inst-8 */
    {240, 18.6, 240, 17.2},   /* exl3-mcg-1 */
    {251, 18.7, 251, 17.4},   /* exl3-mcg-2 */
    {232, 21.8, 243, 17.8},   /* exl3-mcg-3 */
    {259, 20.1, 259, 17.8},   /* exl3-mcg-4 */
    {234, 24.6, 265, 17.7},   /* exl3-mcg-5 */
    {239, 25.3, 275, 17.8},   /* exl3-mcg-6 */
    {241, 27.8, 290, 18.2},   /* exl3-mcg-7 */
    {233, 28.9, 290, 17.8},   /* exl3-mcg-8 */
    {68.2, 19.5, 68.2, 17.6}, /* exl3-mul1-1 */
    {70.3, 20.9, 74.6, 17.7}, /* exl3-mul1-2 */
    {71.5, 22.4, 86.2, 17.7}, /* exl3-mul1-3 */
    {77.5, 23.4, 96.1, 17.9}, /* exl3-mul1-4 */
    {73.5, 26.4, 115, 17.9},  /* exl3-mul1-5 */
    {74.2, 28, 127, 17.8},    /* exl3-mul1-6 */
    {75.8, 28.4, 132, 18.1},  /* exl3-mul1-7 */
    {72.1, 27.8, 122, 18},    /* exl3-mul1-8 */
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
    static const float(*const tables[ML_CPU_TIERS])[FIGURES] = {generic, avx2, avx512, amx, avx2, avx2};
    const float(*t)[FIGURES] = tables[m->cpu.tier];
    *s = (struct ml_selection){.machine = *m};
    for (int k = 0; k < ML_KINDS; k++)
        s->cost[k] = (struct ml_cost){few_of(m->cpu.tier, k), t[k][0], t[k][1], t[k][2], t[k][3]};
}
