/* SPDX-License-Identifier: Apache-2.0
 *
 * The threads of the program, started when a command first asks for them.
 */
#include "cli/cli.h"

struct ml_pool *ml_cli_pool(struct ml_cli *cli, struct marlin_error *err) {
    if (!cli->pool && ml_pool_create(cli->threads, &cli->pool, err) != MARLIN_OK) return NULL;
    return cli->pool;
}
