# attn as its users meet it: the README's program, the program's results judged from outside where ATTN_CONFORMANCE names
# somebody who does, and the package: installed, then found by find_package and by pkg-config, and embedded by add_subdirectory.
add_test(NAME readme_program COMMAND ${CMAKE_COMMAND} -P ${CMAKE_CURRENT_LIST_DIR}/readme_program.cmake)
if(ATTN_CONFORMANCE AND ATTN_BUILD_APPS)
  add_test(NAME conformance COMMAND ${ATTN_CONFORMANCE} $<TARGET_FILE:attn_demo>)
endif()

# They use all of it; and a sanitized library needs a runtime that its users lack.
if(NOT ATTN_INSTALL OR NOT ATTN_BUILD_MODEL OR ATTN_SANITIZE)
  return()
endif()
set(consumer_source ${CMAKE_CURRENT_LIST_DIR})
set(consumer_build ${CMAKE_CURRENT_BINARY_DIR}/consumer)
set(consumer_prefix ${consumer_build}/prefix)

function(add_consumer_test name)
  cmake_parse_arguments(consumer "" "" "OPTIONS;THEN" ${ARGN})
  add_test(NAME consumer.${name}
    COMMAND ${CMAKE_CTEST_COMMAND} --build-and-test ${consumer_source} ${consumer_build}/${name}
            --build-generator ${CMAKE_GENERATOR} --build-makeprogram ${CMAKE_MAKE_PROGRAM} --build-target consumer
            --build-options -DCMAKE_CXX_COMPILER=${CMAKE_CXX_COMPILER} "-DCMAKE_PREFIX_PATH=${CMAKE_PREFIX_PATH}" ${consumer_OPTIONS}
            ${consumer_THEN})
endfunction()

add_test(NAME consumer.install COMMAND ${CMAKE_COMMAND} --install ${PROJECT_BINARY_DIR} --prefix ${consumer_prefix})
add_consumer_test(find_package OPTIONS -Dattn_ROOT=${consumer_prefix} THEN --test-command consumer)
add_consumer_test(add_subdirectory OPTIONS -DATTN_SOURCE_DIR=${PROJECT_SOURCE_DIR})
set_tests_properties(consumer.install PROPERTIES FIXTURES_SETUP consumer_prefix)
set_tests_properties(consumer.find_package PROPERTIES FIXTURES_REQUIRED consumer_prefix)

if(ATTN_BUILD_APPS)
  add_test(NAME consumer.demo COMMAND ${consumer_prefix}/${CMAKE_INSTALL_BINDIR}/attn_demo)
  set_tests_properties(consumer.demo PROPERTIES FIXTURES_REQUIRED consumer_prefix)
endif()

find_program(PKG_CONFIG pkg-config)
if(PKG_CONFIG)
  file(MAKE_DIRECTORY ${consumer_build})
  set(consumer_compile "${CMAKE_CXX_COMPILER} -std=c++20 ${consumer_source}/main.cpp ${consumer_source}/whole_package.cpp $(${PKG_CONFIG} --cflags --libs attn) -o consumer")
  add_test(NAME consumer.pkg_config COMMAND sh -c "${consumer_compile} && ./consumer"
    WORKING_DIRECTORY ${consumer_build})
  set(consumer_libraries ${consumer_prefix}/${CMAKE_INSTALL_LIBDIR})
  set_tests_properties(consumer.pkg_config PROPERTIES FIXTURES_REQUIRED consumer_prefix
    ENVIRONMENT "PKG_CONFIG_PATH=${consumer_libraries}/pkgconfig;LD_LIBRARY_PATH=${consumer_libraries}")
endif()
