/* SPDX-License-Identifier: Apache-2.0
 *
 * Names of roles, and looking a site up.
 */
#include "models/model_int.h"

const char *ml_role_name(enum ml_role r) {
    static const char *const names[ML_ROLES] = {
        [ML_ROLE_Q] = "q",         [ML_ROLE_K] = "k",
        [ML_ROLE_V] = "v",         [ML_ROLE_O] = "o",
        [ML_ROLE_Q_LOW] = "q low", [ML_ROLE_KV_LOW] = "kv low",
        [ML_ROLE_KV] = "kv",       [ML_ROLE_ATTENTION_GATE] = "attention gate",
        [ML_ROLE_GATE] = "gate",   [ML_ROLE_UP] = "up",
        [ML_ROLE_DOWN] = "down",   [ML_ROLE_ROUTER] = "router",
        [ML_ROLE_HEAD] = "head"};
    return names[r];
}

bool ml_role_is_plain(enum ml_role r) {
    return r == ML_ROLE_ROUTER || r == ML_ROLE_KV;
}

const struct ml_site *ml_layer_site(const struct ml_layer *l, enum ml_role role) {
    for (size_t i = 0; i < l->n_sites; i++)
        if (l->sites[i].role == role) return &l->sites[i];
    return NULL;
}

const struct ml_site *ml_layer_input(const struct ml_layer *l, enum ml_input input) {
    for (size_t i = 0; i < l->n_sites; i++)
        if (l->sites[i].input == input) return &l->sites[i];
    return NULL;
}
