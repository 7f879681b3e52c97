/* SPDX-License-Identifier: Apache-2.0
 *
 * The folders of tests/golden/fixtures: tiny models of every architecture, each with what transformers made of it.
 */
#ifndef ML_TESTS_FIXTURES_H
#define ML_TESTS_FIXTURES_H

static const char *const fixtures[] = {
    "gemma2",       "gemma3_text", "llama2_mha",  "llama3",       "mistral_swa",      "mixtral",
    "olmo2",        "phi3",        "qwen2",       "qwen3",        "qwen3_moe",        "qwen3_yarn",
    "smollm3",      "ministral3",  "olmo3",       "glm4_partial", "stablelm_partial", "hunyuan_v1_dense",
    "muse_glimmer", "minimax_m2",  "deepseek_v3", "gpt_oss_mxfp4"};
enum { N_FIXTURES = sizeof(fixtures) / sizeof(fixtures[0]) };

#endif
