# Tests of the C interface. Programs in C++ compare it with the C++ library, of which they have a
# copy of their own in a static build.
add_library(attn_c_calls STATIC support/c_calls.cpp)
target_link_libraries(attn_c_calls PUBLIC attn_test_support attn_c)
foreach(name calls plans block_masks caches functions nulls errors fuzz)
  attn_test(capi/capi_${name} attn_c_calls)
endforeach()
if(ATTN_SANITIZE)
  target_compile_definitions(test_capi_errors PRIVATE ATTN_TEST_SANITIZED)
else()  # Sanitizers bring their own new and malloc.
  attn_test(capi/capi_allocations attn_c_calls)
  target_sources(test_capi_allocations PRIVATE support/allocations.cpp)
endif()

attn_add_c_program(c_program capi/program.c)
target_link_libraries(c_program PRIVATE m)
attn_register_test(c_program c_program)
if(ATTN_BUILD_APPS)
  attn_register_test(hello_c hello_c)
endif()

# What the library exports, and its binary interface, as they are stored in attn_c.abi.
if(NOT APPLE AND NOT ATTN_SANITIZE)
  set(stored ${CMAKE_CURRENT_LIST_DIR}/attn_c.abi)
  add_test(NAME exports.attn_c
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DSHARED=$<TARGET_FILE:attn_c> -DSTORED=${stored}
            -P ${CMAKE_CURRENT_LIST_DIR}/exports.cmake)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL "x86_64")
    add_test(NAME abi.attn_c
      COMMAND ${CMAKE_COMMAND} -DCC=${CMAKE_C_COMPILER} -DINCLUDE=${PROJECT_SOURCE_DIR}/include
              -DSONAME=$<TARGET_SONAME_FILE_NAME:attn_c> -DSTORED=${stored}
              -DNEW=${CMAKE_CURRENT_BINARY_DIR}/attn_c.abi -P ${CMAKE_CURRENT_LIST_DIR}/abi.cmake)
    set_tests_properties(abi.attn_c PROPERTIES SKIP_REGULAR_EXPRESSION "is not installed")
  endif()
endif()
