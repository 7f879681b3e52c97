# SPDX-License-Identifier: Apache-2.0
#
# The library, and what `cmake --install` puts where (all of it relocatable: --prefix and DESTDIR are honoured):
#
#   bin/marlin                             the program
#   include/marlin/*.h, LIBDIR/libmarlin.* LIBDIR/pkgconfig/marlin.pc
#   share/marlin/models/*                  the embedded models
#   share/marlin/python/metal_marlin       the Python package (python/README.md)
#   share/man/man1, completions of bash, zsh and fish: what the program itself prints
#   share/doc/marlin                       LICENSE

set(CMAKE_INSTALL_LIBDIR lib CACHE STRING "where libraries go, below the prefix: lib, lib64, lib/x86_64-linux-gnu")
include(GNUInstallDirs)

# Everything that the public headers need and nothing of the program. Objects, not archives: the linker would leave
# out members that nothing asks for yet.
set(libmarlin_folders base packing tokenizer chat converters device sampling kernels ops cache models quantization_matrix
    engine engine_linear)
set(objects "")
foreach(folder IN LISTS libmarlin_folders)
  list(APPEND objects $<TARGET_OBJECTS:ml_${folder}>)
endforeach()

set(abi ${PROJECT_VERSION_MAJOR})
if(abi EQUAL 0)
  set(abi 0.${PROJECT_VERSION_MINOR})
endif()

foreach(kind shared static)
  string(TOUPPER ${kind} type)
  add_library(marlin_${kind} ${type} ${objects})
  set_target_properties(marlin_${kind} PROPERTIES OUTPUT_NAME marlin LINKER_LANGUAGE C
    VERSION ${PROJECT_VERSION} SOVERSION ${abi})
  target_link_libraries(marlin_${kind} PRIVATE $<BUILD_INTERFACE:marlin_flags> PkgConfig::PCRE2 PkgConfig::UTF8PROC
                        PkgConfig::XXHASH Threads::Threads m)
endforeach()

# ---- what the program says of itself ----

set(told ${CMAKE_BINARY_DIR}/told)
file(MAKE_DIRECTORY ${told})
add_custom_command(
  OUTPUT ${told}/marlin.1 ${told}/marlin.bash ${told}/_marlin ${told}/marlin.fish
  COMMAND marlin help --man > ${told}/marlin.1
  COMMAND marlin help --completion bash > ${told}/marlin.bash
  COMMAND marlin help --completion zsh > ${told}/_marlin
  COMMAND marlin help --completion fish > ${told}/marlin.fish
  DEPENDS marlin VERBATIM)
add_custom_target(told DEPENDS ${told}/marlin.1 ${told}/marlin.bash ${told}/_marlin ${told}/marlin.fish)

# All that is installed: what `make` builds.
add_custom_target(product ALL DEPENDS marlin marlin_shared marlin_static told)

# ---- marlin.pc: paths from where it lies, so that the tree may be moved ----

if(IS_ABSOLUTE ${CMAKE_INSTALL_LIBDIR})
  set(pc_prefix ${CMAKE_INSTALL_PREFIX})
  set(pc_libdir ${CMAKE_INSTALL_LIBDIR})
else()
  file(RELATIVE_PATH up /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
  string(REGEX REPLACE "/$" "" up "${up}")
  set(pc_prefix "\${pcfiledir}/${up}")
  set(pc_libdir "\${prefix}/${CMAKE_INSTALL_LIBDIR}")
endif()
configure_file(${CMAKE_SOURCE_DIR}/cmake/marlin.pc.in ${CMAKE_BINARY_DIR}/marlin.pc @ONLY)

# ---- installing ----

install(TARGETS marlin RUNTIME DESTINATION bin)
install(TARGETS marlin_shared marlin_static LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/marlin DESTINATION include FILES_MATCHING PATTERN "*.h")
install(FILES ${CMAKE_BINARY_DIR}/marlin.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
install(DIRECTORY models/ DESTINATION share/marlin/models)
install(DIRECTORY python/metal_marlin DESTINATION share/marlin/python
        PATTERN "__pycache__" EXCLUDE PATTERN "*.pyc" EXCLUDE)
install(FILES ${told}/marlin.1 DESTINATION share/man/man1)
install(FILES ${told}/marlin.bash DESTINATION share/bash-completion/completions RENAME marlin)
install(FILES ${told}/_marlin DESTINATION share/zsh/site-functions)
install(FILES ${told}/marlin.fish DESTINATION share/fish/vendor_completions.d)
install(FILES LICENSE DESTINATION share/doc/marlin)
