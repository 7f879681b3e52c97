# SPDX-License-Identifier: Apache-2.0
#
# MARLIN_TESTS. The program builds without cmocka: where that is absent the tests are off, unless somebody asked for
# them. A cross build brings an implementation of its own (tests/cross).

set(have_cmocka ON)
if(NOT DEFINED MARLIN_TESTS AND NOT MARLIN_CORE)
  find_package(PkgConfig QUIET)
  if(PKG_CONFIG_FOUND)
    pkg_check_modules(CMOCKA QUIET cmocka)
  endif()
  if(NOT CMOCKA_FOUND)
    set(have_cmocka OFF)
    message(STATUS "cmocka is not installed: no tests (scripts/setup test installs it, then -DMARLIN_TESTS=ON)")
  endif()
endif()
option(MARLIN_TESTS "build the tests (needs cmocka)" ${have_cmocka})
