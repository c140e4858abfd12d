# A translation unit for each instruction set of isas.inc that this processor's architecture has.
set(isas_file ${CMAKE_CURRENT_SOURCE_DIR}/kernels/isas.inc)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${isas_file})
file(STRINGS ${isas_file} isa_lines REGEX "^ATTN_ISA\\(")

# No rule of IEEE arithmetic is given up: neither errno nor trapping is part of it.
set(ATTN_KERNEL_FLAGS -fno-math-errno -fno-trapping-math)

target_sources(attn PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/kernels/select.cpp)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(architectures any x86_64)
  target_compile_definitions(attn PRIVATE ATTN_X86_KERNELS)
else()
  set(architectures any)
  # GCC has x86 alone keep the order of loads and multiply-adds. Elsewhere it moves loads ahead until accumulators are spilled.
  if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    list(APPEND ATTN_KERNEL_FLAGS -fno-schedule-insns)
  endif()
endif()

# The names that are built, and the flags of each in ATTN_ISA_FLAGS_<name>, for the tests too.
set_property(GLOBAL PROPERTY ATTN_BUILT_ISAS)
foreach(line ${isa_lines})
  if(NOT line MATCHES "^ATTN_ISA\\(([a-z0-9_]+), ([a-z0-9_]+), \"([^\"]*)\"")
    message(FATAL_ERROR "kernels/isas.inc: cannot read ${line}")
  endif()
  set(isa ${CMAKE_MATCH_1})
  set(architecture ${CMAKE_MATCH_2})
  separate_arguments(flags UNIX_COMMAND "${CMAKE_MATCH_3}")
  if(architecture IN_LIST architectures)
    set(file ${CMAKE_CURRENT_BINARY_DIR}/kernels/${isa}.cpp)
    file(CONFIGURE OUTPUT ${file} CONTENT "#define ATTN_KERNELS ${isa}_kernels\n#include \"kernels/kernels.inl\"\n")
    target_sources(attn PRIVATE ${file})
    set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${ATTN_KERNEL_FLAGS};${flags}")
    set_property(GLOBAL APPEND PROPERTY ATTN_BUILT_ISAS ${isa})
    set_property(GLOBAL PROPERTY ATTN_ISA_FLAGS_${isa} ${flags})
  endif()
endforeach()
