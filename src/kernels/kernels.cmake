# One translation unit per instruction set, each from the same sources. The list here and the one in select.cpp are all that
# knows them.
include(CheckCXXCompilerFlag)

# -ffp-contract=fast lets a multiply and an add become one; no other rule of IEEE arithmetic is given up.
set(ATTN_KERNEL_FLAGS -ffp-contract=fast -fno-math-errno -fno-trapping-math)

function(attn_add_kernels isa)
  set(file ${CMAKE_CURRENT_SOURCE_DIR}/kernels/${isa}.cpp)
  target_sources(attn PRIVATE ${file})
  set_source_files_properties(${file} PROPERTIES COMPILE_OPTIONS "${ATTN_KERNEL_FLAGS};${ARGN}")
endfunction()

target_sources(attn PRIVATE ${CMAKE_CURRENT_SOURCE_DIR}/kernels/select.cpp)
attn_add_kernels(baseline)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  attn_add_kernels(avx2 -march=x86-64-v3)
  attn_add_kernels(avx512 -march=x86-64-v4 -mprefer-vector-width=512)
  attn_add_kernels(avx512_bf16 -march=x86-64-v4 -mavx512bf16 -mprefer-vector-width=512)
  target_compile_definitions(attn PRIVATE ATTN_X86_KERNELS)
endif()
