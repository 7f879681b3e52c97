/* SPDX-License-Identifier: Apache-2.0
 *
 * Property: any bytes are a template or give a named error, and a template renders within its limits or gives one.
 */
#include "chat/jinja.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char request[] =
    "{\"messages\":[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"Hi \\u00e9\"},"
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"id\":\"abcdefghi\",\"function\":{\"name\":"
    "\"f\","
    "\"arguments\":{\"a\":[1,2.5,true]}}}]},{\"role\":\"tool\",\"content\":\"x\"}],\"tools\":[{\"type\":"
    "\"function\","
    "\"function\":{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"properties\":{\"a\":{\"type\":"
    "\"array\"}},"
    "\"required\":[\"a\"]}}}],\"add_generation_prompt\":true,\"n\":3,\"s\":\"a,b\",\"bos_token\":\"<s>\"}";

static void require(bool condition) {
    if (!condition) abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static const struct ml_template_limits limits = {
        .max_steps = 100000, .max_output = 1 << 20, .max_memory = 16 << 20};
    struct ml_template *t = NULL;
    struct ml_json_doc *doc = NULL;
    struct marlin_error err = {0};
    struct ml_buf out;
    marlin_status st = ml_template_compile("fuzz", (const char *)data, size, &t, &err);
    require((st == MARLIN_OK) == (t != NULL));
    if (st != MARLIN_OK) {
        require(err.code == st && err.text[0] != '\0' && st != MARLIN_ERR_INTERNAL);
        return 0;
    }
    require(ml_json_parse(request, strlen(request), NULL, &doc, NULL) == MARLIN_OK);
    const struct ml_template_input in = {.request = ml_json_root(doc), .limits = &limits, .now = 1741529107};
    ml_buf_init(&out, 1 << 20);
    st = ml_template_render(t, &in, &out, &err);
    require(out.len <= limits.max_output);
    if (st != MARLIN_OK)
        require(err.code == st && err.text[0] != '\0' && out.len == 0 && st != MARLIN_ERR_INTERNAL);
    ml_buf_free(&out);
    ml_template_free(t);
    ml_json_free(doc);
    return 0;
}
