# SPDX-License-Identifier: Apache-2.0
#
# A build of the folders that need no outside library but the header of xxHash, which is taken from this machine whatever
# the target is: copied, because the folder that it lies in holds this machine's libc as well.

set(MARLIN_CORE_FOLDERS base packing converters device kernels ops cache models)

find_path(XXHASH_HEADER xxhash.h PATHS /usr/include /usr/local/include /opt/homebrew/include NO_CMAKE_FIND_ROOT_PATH REQUIRED)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/xxhash)
configure_file(${XXHASH_HEADER}/xxhash.h ${CMAKE_BINARY_DIR}/xxhash/xxhash.h COPYONLY)

add_library(marlin_xxhash INTERFACE)
target_include_directories(marlin_xxhash SYSTEM INTERFACE ${CMAKE_BINARY_DIR}/xxhash)
target_compile_definitions(marlin_xxhash INTERFACE XXH_INLINE_ALL)
add_library(PkgConfig::XXHASH ALIAS marlin_xxhash)
