# Tests of attn as its users meet it: the program in README.md, the output of attn_demo if
# ATTN_CONFORMANCE names a program that checks it, and the package. The package is installed, then
# found by find_package and by pkg-config; its source is embedded by add_subdirectory.
add_test(NAME readme_program
  COMMAND ${CMAKE_COMMAND} -P ${CMAKE_CURRENT_LIST_DIR}/readme_program.cmake)
if(ATTN_CONFORMANCE AND ATTN_BUILD_APPS)
  add_test(NAME conformance COMMAND ${ATTN_CONFORMANCE} $<TARGET_FILE:attn_demo>)
endif()

# The tests below use all three libraries. They are left out with sanitizers, because a program that
# links a sanitized library needs the same sanitizer.
if(NOT ATTN_INSTALL OR NOT ATTN_BUILD_MODEL OR ATTN_SANITIZE)
  return()
endif()
set(consumer_source ${CMAKE_CURRENT_LIST_DIR})
set(consumer_build ${CMAKE_CURRENT_BINARY_DIR}/consumer)
set(consumer_prefix ${consumer_build}/prefix)

function(add_consumer_test name)
  cmake_parse_arguments(consumer "" "FOLDER" "OPTIONS;THEN" ${ARGN})
  add_test(NAME consumer.${name}
    COMMAND ${CMAKE_CTEST_COMMAND}
            --build-and-test ${consumer_source}/${consumer_FOLDER} ${consumer_build}/${name}
            --build-generator ${CMAKE_GENERATOR} --build-makeprogram ${CMAKE_MAKE_PROGRAM}
            --build-target consumer
            --build-options -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER}
                            -DCMAKE_C_COMPILER=${CMAKE_C_COMPILER}
                            "-DCMAKE_PREFIX_PATH=${CMAKE_PREFIX_PATH}" ${consumer_OPTIONS}
            ${consumer_THEN})
endfunction()

add_test(NAME consumer.install
  COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --prefix ${consumer_prefix})
set(consumer_mpi)
if(ATTN_BUILD_MPI)
  set(consumer_mpi mpi)
endif()
add_consumer_test(find_package
  OPTIONS -Dattn_ROOT=${consumer_prefix} -DATTN_CONSUMER_MPI=${consumer_mpi} THEN --test-command consumer)
add_consumer_test(add_subdirectory
  OPTIONS -DATTN_SOURCE_DIR=${PROJECT_SOURCE_DIR} -DATTN_WITH_ONEDNN=${ATTN_WITH_ONEDNN})
set_tests_properties(consumer.install PROPERTIES FIXTURES_SETUP consumer_prefix)
set_tests_properties(consumer.find_package PROPERTIES FIXTURES_REQUIRED consumer_prefix)

if(ATTN_BUILD_C)
  add_consumer_test(c FOLDER c OPTIONS -Dattn_ROOT=${consumer_prefix} THEN --test-command consumer)
  set_tests_properties(consumer.c PROPERTIES FIXTURES_REQUIRED consumer_prefix)
endif()

if(ATTN_BUILD_APPS)
  add_test(NAME consumer.demo COMMAND ${consumer_prefix}/${CMAKE_INSTALL_BINDIR}/attn_demo)
  set_tests_properties(consumer.demo PROPERTIES FIXTURES_REQUIRED consumer_prefix)
endif()

find_program(PKG_CONFIG pkg-config)
if(PKG_CONFIG)
  file(MAKE_DIRECTORY ${consumer_build})
  string(CONCAT consumer_compile
    "${CMAKE_CXX_COMPILER} -std=c++20 "
    "${consumer_source}/main.cpp ${consumer_source}/whole_package.cpp "
    "$(${PKG_CONFIG} --cflags --libs attn) -o consumer")
  add_test(NAME consumer.pkg_config COMMAND sh -c "${consumer_compile} && ./consumer"
    WORKING_DIRECTORY ${consumer_build})
  set(consumer_libraries ${consumer_prefix}/${CMAKE_INSTALL_LIBDIR})
  set_tests_properties(consumer.pkg_config PROPERTIES FIXTURES_REQUIRED consumer_prefix
    ENVIRONMENT
      "PKG_CONFIG_PATH=${consumer_libraries}/pkgconfig;LD_LIBRARY_PATH=${consumer_libraries}")
  if(ATTN_BUILD_C)
    string(CONCAT consumer_compile
      "${CMAKE_C_COMPILER} -std=c99 -pedantic -Wall -Wextra -Werror "
      "${PROJECT_SOURCE_DIR}/apps/hello.c $(${PKG_CONFIG} --cflags --libs attn_c) -o c_consumer")
    add_test(NAME consumer.c_pkg_config COMMAND sh -c "${consumer_compile} && ./c_consumer"
      WORKING_DIRECTORY ${consumer_build})
    get_test_property(consumer.pkg_config ENVIRONMENT consumer_environment)
    set_tests_properties(consumer.c_pkg_config PROPERTIES FIXTURES_REQUIRED consumer_prefix
      ENVIRONMENT "${consumer_environment}")
  endif()
endif()

# The shared libraries: a program that uses all three of them runs, and each exports the public
# names and nothing else. In a static build, they are linked from the objects of the static
# libraries.
if(NOT APPLE)
  add_executable(shared_consumer ${consumer_source}/main.cpp ${consumer_source}/whole_package.cpp)
  target_link_libraries(shared_consumer PRIVATE
    attn_settings attn_model_shared attn_io_shared attn_shared)
  add_test(NAME consumer.shared COMMAND shared_consumer)
  set(exporting_libraries attn attn_io attn_model)
  if(ATTN_BUILD_MPI)
    list(APPEND exporting_libraries attn_mpi)
    add_dependencies(shared_consumer attn_mpi_shared)
  endif()
  foreach(library ${exporting_libraries})
    add_dependencies(shared_consumer ${library}_static)
    add_test(NAME exports.${library}
      COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DSTATIC=$<TARGET_FILE:${library}_static>
              -DSHARED=$<TARGET_FILE:${library}_shared> -P ${consumer_source}/exports.cmake)
  endforeach()
endif()
