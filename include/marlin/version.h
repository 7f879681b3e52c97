/* SPDX-License-Identifier: Apache-2.0
 *
 * The version of these headers; marlin_version (marlin/marlin.h) says that of the library. CMake reads it from
 * here. Before 1.0 a new minor number may change anything that is declared, and the name of the shared library
 * (libmarlin.so.MAJOR.MINOR) changes with it.
 */
#ifndef MARLIN_VERSION_H
#define MARLIN_VERSION_H

#define MARLIN_VERSION_MAJOR 0
#define MARLIN_VERSION_MINOR 1
#define MARLIN_VERSION_PATCH 0
#define MARLIN_VERSION       "0.1.0"

#endif
