/* SPDX-License-Identifier: Apache-2.0
 *
 * One linear of a model directory, without reading the weights of the others.
 */
#ifndef ML_MODELS_SINGLE_H
#define ML_MODELS_SINGLE_H

#include "models/model.h"

/* The linear called `name` ("model.layers.0.mlp.up_proj", with or without ".weight"; canonical, or as the
 * file spells it), in whatever form it is stored. *out owns it and *linear lives as long; nothing else of
 * *out can be run. The whole directory is checked as ml_model_load checks it, but only headers are read of the
 * rest. options as there; headers_only is not looked at. MARLIN_ERR_NOT_FOUND for a name that no linear has;
 * MARLIN_ERR_UNSUPPORTED for one that is stored only as a part of another tensor that would have to be
 * converted first. */
marlin_status ml_model_load_single(const char *dir, const char *name, const struct ml_model_options *options,
                                   struct ml_model **out, const struct ml_linear **linear,
                                   struct marlin_error *err) MARLIN_MUST_CHECK;

#endif
