# The install rules, and the files by which other projects find the package: attn-config.cmake for
# find_package and attn.pc for pkg-config.
include(CMakePackageConfigHelpers)

install(TARGETS ${attn_libraries} EXPORT attn-targets)
if(ATTN_BUILD_C)
  # An export of its own, since a project in C alone cannot use the others' targets.
  install(TARGETS attn_c EXPORT attn_c-targets)
endif()
install(DIRECTORY ${PROJECT_SOURCE_DIR}/include/attn DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE ${PROJECT_SOURCE_DIR}/README.md
        DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/attn)
install(EXPORT attn-targets NAMESPACE attn:: DESTINATION ${package_dir})
if(ATTN_BUILD_C)
  install(EXPORT attn_c-targets NAMESPACE attn:: DESTINATION ${package_dir})
endif()
configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/attn-config.cmake.in ${PROJECT_BINARY_DIR}/attn-config.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/attn-config-version.cmake COMPATIBILITY SameMinorVersion)
set(package_files
  ${PROJECT_BINARY_DIR}/attn-config.cmake ${PROJECT_BINARY_DIR}/attn-config-version.cmake)
if(ATTN_WITH_ONEDNN)
  list(APPEND package_files ${PROJECT_SOURCE_DIR}/src/onednn/find_onednn.cmake)
endif()
if(ATTN_BUILD_MODEL)
  list(APPEND package_files ${PROJECT_SOURCE_DIR}/src/model/find_text_libraries.cmake)
endif()
install(FILES ${package_files} DESTINATION ${package_dir})

# A program that links the static libraries has to link their dependencies too. A shared library
# names its own. attn_mpi is for find_package, which finds MPI for it.
set(pc_own_libs ${attn_libraries})
list(REMOVE_ITEM pc_own_libs attn_mpi)
list(TRANSFORM pc_own_libs PREPEND -l)
list(REVERSE pc_own_libs)
list(JOIN pc_own_libs " " pc_own_libs)
if(NOT BUILD_SHARED_LIBS)
  set(pc_requires "fmt")
  if(ATTN_BUILD_MODEL)
    string(APPEND pc_requires " libutf8proc")
  endif()
  set(pc_libs "${OpenMP_CXX_FLAGS}")
  if(ATTN_WITH_ONEDNN)
    cmake_path(GET ONEDNN_LIBRARY PARENT_PATH onednn_dir)
    string(PREPEND pc_libs "-L${onednn_dir} -ldnnl ")
  endif()
endif()
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig
           OUTPUT_VARIABLE pc_prefix)

# Writes and installs NAME.pc from the variables pc_requires, pc_own_libs and pc_libs.
function(attn_install_pc pc_name pc_description)
  set(file ${PROJECT_BINARY_DIR}/${pc_name}.pc)
  configure_file(${CMAKE_CURRENT_FUNCTION_LIST_DIR}/attn.pc.in ${file} @ONLY)
  install(FILES ${file} DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endfunction()
attn_install_pc(attn "${PROJECT_DESCRIPTION}")
if(ATTN_BUILD_C)  # It is shared, and so names its own dependencies.
  set(pc_requires)
  set(pc_own_libs -lattn_c)
  set(pc_libs)
  attn_install_pc(attn_c "${PROJECT_DESCRIPTION}: the C interface")
endif()
