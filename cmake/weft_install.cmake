# cmake --install BUILD --prefix DIR, then find_package(weft) elsewhere: the library, its headers under include/weft, and a package file
# that finds what a static library leaves to the final link.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

install(TARGETS weft EXPORT weft_targets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})

# Headers for users: everything but the insides of the CPU and CUDA backends.
foreach(layer ${WEFT_LAYERS})
  install(DIRECTORY ${layer} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/weft
          FILES_MATCHING PATTERN "*.h" PATTERN "*.def" PATTERN "*-inl.h" EXCLUDE PATTERN cpu EXCLUDE PATTERN cuda EXCLUDE)
endforeach()
install(FILES weft.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/weft)
install(FILES core/cuda/device.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/weft/core/cuda)  # plain C++: core/kernels.h includes it

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/weft)
configure_package_config_file(cmake/weft-config.cmake.in ${CMAKE_CURRENT_BINARY_DIR}/weft-config.cmake INSTALL_DESTINATION ${package_dir})
write_basic_package_version_file(${CMAKE_CURRENT_BINARY_DIR}/weft-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/weft-config.cmake ${CMAKE_CURRENT_BINARY_DIR}/weft-config-version.cmake DESTINATION ${package_dir})
install(EXPORT weft_targets NAMESPACE weft:: FILE weft-targets.cmake DESTINATION ${package_dir})
