# Each micro-kernel against a plain loop, for every instruction set that runs here.
add_executable(test_kernels
  kernels/test_matmul_kernels.cpp kernels/test_stored_rows_kernels.cpp kernels/test_softmax_kernels.cpp
  kernels/test_elementwise_kernels.cpp kernels/test_gradient_kernels.cpp)
target_include_directories(test_kernels PRIVATE ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(test_kernels PRIVATE attn_test_support attn_static)
attn_register_test(kernels test_kernels)

# The micro-kernel multiplies and adds in one instruction, and its accumulators stay in registers. A tile has two loops: one that
# prefetches, and one that does not.
function(attn_micro_kernel_test isa vectors instruction)
  math(EXPR count "2 * 6 * ${vectors}")
  add_test(NAME micro_kernel.${isa}
    COMMAND ${CMAKE_COMMAND} -DNM=${CMAKE_NM} -DOBJDUMP=${CMAKE_OBJDUMP}
            "-DOBJECTS=$<FILTER:$<TARGET_OBJECTS:attn>,INCLUDE,/kernels/${isa}[.]cpp>"
            -DVECTORS=${vectors} -DINSTRUCTION=${instruction} -DCOUNT=${count} ${ARGN}
            -P ${CMAKE_CURRENT_SOURCE_DIR}/kernels/micro_kernel.cmake)
endfunction()
if(CMAKE_BUILD_TYPE STREQUAL Release AND CMAKE_OBJDUMP AND NOT ATTN_SANITIZE)
  if(CMAKE_SYSTEM_PROCESSOR STREQUAL aarch64)
    attn_micro_kernel_test(baseline 4 fmla "-DSPILL=\t(ldr|ldp|str|stp)\tq[^\n]*\\[sp")
  elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
    attn_micro_kernel_test(avx2 2 vfmadd[0-9]+ps)
    attn_micro_kernel_test(avx512 4 vfmadd[0-9]+ps)
  endif()
endif()

# Each .inl compiles alone, and twice, with the flags of each instruction set.
file(GLOB inls RELATIVE ${PROJECT_SOURCE_DIR}/src/kernels CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/kernels/*.inl)
list(REMOVE_ITEM inls kernels.inl)  # the instruction sets' own
get_property(isas GLOBAL PROPERTY ATTN_BUILT_ISAS)
add_custom_target(attn_inls)
foreach(isa ${isas})
  set(inl_sources)
  foreach(inl ${inls})
    set(source ${CMAKE_CURRENT_BINARY_DIR}/inls/${isa}_${inl}.cpp)
    file(CONFIGURE OUTPUT ${source} CONTENT "#include \"kernels/${inl}\"\n#include \"kernels/${inl}\"\n")
    list(APPEND inl_sources ${source})
  endforeach()
  add_library(attn_inls_${isa} OBJECT EXCLUDE_FROM_ALL ${inl_sources})
  get_property(flags GLOBAL PROPERTY ATTN_ISA_FLAGS_${isa})
  # Functions that nobody calls are the rule here; nothing is optimized, as nothing is run. For Clang,
  # the last option counts: those of sources come after the warnings of attn_settings.
  set_source_files_properties(${inl_sources} PROPERTIES COMPILE_OPTIONS -Wno-unused-function)
  target_compile_options(attn_inls_${isa} PRIVATE ${flags} -O0)
  target_include_directories(attn_inls_${isa} PRIVATE ${PROJECT_SOURCE_DIR}/src)
  target_link_libraries(attn_inls_${isa} PRIVATE attn_settings attn::attn)
  add_dependencies(attn_inls attn_inls_${isa})
endforeach()
if(NOT ATTN_SANITIZE)
  add_test(NAME inls COMMAND ${CMAKE_COMMAND} --build ${PROJECT_BINARY_DIR} --target attn_inls --config $<CONFIG>)
endif()
